"""How good a fine-tuned model is, and what a difference between two runs is worth."""
