"""The pattern of artifacts' names, for modules that must not import the configs."""

from __future__ import annotations

import re

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
"""Names of artifacts. A name becomes a file name, so it must not be a path."""
