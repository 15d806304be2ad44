"""The shared transformer core: attention (GQA, MLA), feed-forward (dense, MoE), rotary positions, cache."""
