"""The service under measurement: latency, every preset over HTTP, hostile input."""
