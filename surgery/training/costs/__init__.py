"""What a fine-tune will take, computed from sizes alone; nothing here imports torch."""
