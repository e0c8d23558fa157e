"""The processes that a supervisor starts: one lays files ready, one computes with torch."""
