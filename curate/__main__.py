"""Run the command line as `python -m curate`."""

from .cli.main import main

main()
