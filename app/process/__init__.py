"""What every process has: its log, its traces, threads that are restarted, and its workers."""
