"""From the metrics of a comparison's arms to the arm to take."""
