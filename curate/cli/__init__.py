"""The command line: one file a command. Importing this package imports no command."""
