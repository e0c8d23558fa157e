"""Invented rows in the shapes of the presets, and files of rows."""
