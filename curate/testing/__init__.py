"""The laws that every selector keeps, ours and other people's: for the tests of a package that brings one.

    from curate.testing import check_pool_selector, check_selector

    def test_it_keeps_curates_laws() -> None:
        check_selector(Closest, {"aim": 0.5})

Each law is a function of its own in `SELECTOR_LAWS` and `POOL_SELECTOR_LAWS`, by the sentence that it holds a selector
to; our own tests run them one by one. They need torch and numpy, no model and no test runner.
"""

from .pool_selectors import POOL_SELECTOR_LAWS, check_pool_selector
from .selectors import SELECTOR_LAWS, check_selector, made_up_candidates

__all__ = [
    "POOL_SELECTOR_LAWS",
    "SELECTOR_LAWS",
    "check_pool_selector",
    "check_selector",
    "made_up_candidates",
]
