"""What a process tells its operator: its log, and its traces."""
