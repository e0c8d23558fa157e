"""Send the metrics of a run to the trackers that its user has."""
