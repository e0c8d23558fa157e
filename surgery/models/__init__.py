"""From the name of a model to a loaded encoder whose blocks and trainable parts have names."""
