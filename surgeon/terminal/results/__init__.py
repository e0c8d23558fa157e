"""How the result of each kind of job, and an estimate, is shown."""
