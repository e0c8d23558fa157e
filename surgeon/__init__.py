"""The `surgeon` command and the client it is made of: neither imports the server or torch."""
