"""Training: the VQ tokenizer, then the whole model."""
