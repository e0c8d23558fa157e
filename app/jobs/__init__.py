"""The state machine of jobs, and everything that is written under a worker's lease."""
