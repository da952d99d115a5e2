"""Telling people: what to say of a failure, and where to say it. Decides nothing about a run."""
