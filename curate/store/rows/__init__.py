"""Read, look up and reorder the rows of pools that are larger than memory."""
