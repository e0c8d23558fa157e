"""Fine-tune the selected layers, and estimate beforehand what that will take."""
