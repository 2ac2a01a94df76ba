"""Rows of pools that may be larger than memory."""
