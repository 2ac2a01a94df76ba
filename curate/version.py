"""Name and version of the distribution. The import and the command are called `curate`; the package index has another
project of that name, so the distribution has its own.
"""

DISTRIBUTION = "curate-sft"
__version__ = "0.1.0"


def pip_install(extra: str) -> str:
    """Return the command that installs curate with one of its extras."""
    return f'pip install "{DISTRIBUTION}[{extra}]"'
