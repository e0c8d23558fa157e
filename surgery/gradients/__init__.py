"""Per-sample gradients, accumulated without holding the gradient of any sample as a whole."""
