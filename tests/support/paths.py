"""Folders that tests read: the checkout, and the folder of models and data beside it (absent elsewhere)."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHARED = ROOT / "../shared"
