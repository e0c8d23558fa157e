"""What a fine-tune settles first: its head, its learning rate and the rows that are set aside."""
