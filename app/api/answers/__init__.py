"""How jobs and what came of them are answered, and what to do next with it."""
