"""Gradients of single samples, accumulated without ever holding one whole."""
