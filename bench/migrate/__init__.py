"""How long the migrations take on a database that has many jobs."""
