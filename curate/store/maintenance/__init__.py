"""Verify, clean up and repair a store."""
