"""What fine-tunes and searches would take, before any of them runs."""
