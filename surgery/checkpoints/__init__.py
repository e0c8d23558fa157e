"""Write, describe, load, merge and export what was trained."""
