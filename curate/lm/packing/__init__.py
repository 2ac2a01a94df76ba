"""Put texts into one row without padding, and keep them apart there."""
