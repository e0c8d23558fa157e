"""What every request passes through, and what every answer has in common."""
