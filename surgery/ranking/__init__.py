"""From methods to scores, from scores to a ranking, from a ranking to the layers to train."""
