"""Stages: thin functions `run(section, io) -> metrics`. Read inputs, call the library once, write outputs."""
