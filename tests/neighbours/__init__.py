"""Read exports with the trainers that they are for, and compare tokens and masks with those of curate.

Each trainer needs other versions of packages than curate, so it gets an environment of its own:

    tests/neighbours/trl.sh            # and llama-factory.sh, axolotl.sh, ms-swift.sh

A script makes a temporary folder and installs the trainer at its pinned version, which needs a package index. It runs
`make` with curate (pools, exports and what curate would train on), then the trainer's own loading and tokenizing code
(`read_*.py`), and `compare`, which prints a table and fails on a difference that the card of the export does not tell.
"""
