"""The threads of a worker that serve all jobs: sweeps, the registry of workers, webhooks."""
