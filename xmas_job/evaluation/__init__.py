"""Evaluation: generation and metrics on held-out examples."""
