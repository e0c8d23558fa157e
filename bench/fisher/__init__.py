"""What per-sample scores cost, beside ordinary training and other libraries."""
