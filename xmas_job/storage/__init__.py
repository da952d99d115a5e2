"""Bytes: the store, records, leases and table schemas. Knows nothing of what the bytes mean to a method."""
