"""Between words or pictures and token ids: text, chat prompts, the VQ image tokenizer."""
