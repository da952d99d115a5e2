"""What exists: literal tables of methods and signals. No heavy import, no behaviour."""
