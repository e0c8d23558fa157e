"""What the service talks to and what reads its files: servers and formats of others."""
