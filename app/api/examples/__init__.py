"""Examples of requests and of their answers, for the documentation of the API."""
