"""How fast a device trains: what runs measured, and a short probe before any run."""
