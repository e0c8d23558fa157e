"""The how-to pages as programs."""
