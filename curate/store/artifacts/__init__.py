"""Artifacts: folders of files, written once, found by name, verified by checksums."""
