"""The command line of curate, with one module per command.

Importing this package imports no command, so that `curate --help` starts fast.
"""
