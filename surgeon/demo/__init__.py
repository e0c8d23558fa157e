"""`surgeon demo`: a tour of the service on a generated dataset."""
