"""Run the frozen blocks below the lowest trained layer once for each row, and store the outputs."""
