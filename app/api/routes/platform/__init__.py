"""The service itself: whether it is alive, and who may use it for what."""
