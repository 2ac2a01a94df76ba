"""Signals of one text; nothing here knows pools or features."""
