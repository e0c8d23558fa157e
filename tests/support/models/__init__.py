"""Models and checkpoints small enough to train in milliseconds, and broken ones."""
