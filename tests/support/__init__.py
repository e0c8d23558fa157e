"""What tests share: small models and rows, services to talk to, slow and obvious twins."""
