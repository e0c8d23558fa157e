"""How fast data are checked and tokenised, and mirrors made smaller for benchmarks."""
