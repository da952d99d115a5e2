"""Mathematics: arrays in, arrays out. No path, config, logger, clock or global seed."""
