"""Five small generated datasets, one for each how-to in docs/how-to. Torch is not imported."""
