"""Read untrusted files and build folders safely; nothing here imports torch."""
