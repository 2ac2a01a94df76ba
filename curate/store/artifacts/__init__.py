"""Artifacts: folders of files that are written once, found by name and verified by checksums."""
