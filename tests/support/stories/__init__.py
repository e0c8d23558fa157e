"""The how-to pages as programs, and the same data without anything to learn."""
