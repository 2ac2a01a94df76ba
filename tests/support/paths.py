"""Folders that tests read: the checkout, and a folder of models and data next to it, which may be absent."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = ROOT / "../shared"
