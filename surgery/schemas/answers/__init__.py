"""The models of what the service answers: jobs, checkpoints, datasets, events and problems."""
