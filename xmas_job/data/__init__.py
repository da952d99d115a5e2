"""Examples: reading, identity, image validation and trainer-ready exports."""
