"""Which layers are worth training: every layer alone and every policy, on seven tasks."""
