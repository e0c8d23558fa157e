"""The process that claims jobs and stores their results; it never imports torch."""
