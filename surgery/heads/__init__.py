"""Train the task head alone, on the output of an encoder that stays as it is."""
