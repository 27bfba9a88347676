"""A run: planned, carried out on Hugging Face's Trainer, interrupted and gone on with."""
