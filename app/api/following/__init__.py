"""Following a job: long polls and event streams, woken by one task a process."""
