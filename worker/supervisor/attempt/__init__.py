"""One attempt at one job: its lease, its orders to the processes, and what they report."""
