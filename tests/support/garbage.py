"""Leave what imports have made out of the searches for cyclic garbage.

transformers' Trainer searches when it begins to train. With the objects of torch, transformers and the collected tests
that takes a third of the time of a run of a few steps, and hundreds of tests train.
"""

from __future__ import annotations

import gc
import sys

import pytest

MANY = 300
"""New modules after which their objects are left out."""

_known = 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Leave out what is alive if many modules were imported since this was done last; garbage is freed before."""
    global _known
    if len(sys.modules) - _known >= MANY:
        gc.collect()
        gc.freeze()
        _known = len(sys.modules)


def pytest_sessionfinish() -> None:
    """Take everything in again: modules in C++ complain at exit about what is not collected."""
    gc.unfreeze()
