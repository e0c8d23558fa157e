"""`surgeon compare`, and the arms that it is given."""
