"""Estimate what a fine-tune will take from sizes alone; nothing here imports torch."""
