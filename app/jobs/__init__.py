"""The state machine of jobs, and what workers and requests write about them."""
