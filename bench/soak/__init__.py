"""Workers that are killed and paused at random, and what must be true when all jobs are over."""
