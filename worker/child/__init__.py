"""The processes that a supervisor starts: one fetches files, the other computes with torch."""
