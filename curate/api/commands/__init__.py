"""The work of the commands that make no artifact, without printing; the command line and `Store` call it."""
