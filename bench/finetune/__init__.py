"""What fine-tuning some layers costs, beside all layers and LoRA."""
