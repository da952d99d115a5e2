"""Exports: one file per format, examples in, the bytes a trainer reads as they are out.

Owns the formats. Refuses to own which examples (the subset) and where the bytes go (storage).
"""
