"""Estimate what a fine-tune will take from sizes and devices; nothing here imports torch."""
