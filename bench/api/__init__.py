"""How fast the API answers: `python -m bench.api`."""
