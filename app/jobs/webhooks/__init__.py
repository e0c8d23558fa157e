"""Webhooks: what they are told of, where they may be, and how deliveries are kept and sent."""
