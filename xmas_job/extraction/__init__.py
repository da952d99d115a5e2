"""Signals: one pass over examples and checkpoints, one file a signal family."""
