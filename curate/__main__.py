"""`python -m curate`."""

from .cli.main import main

main()
