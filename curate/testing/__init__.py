"""Laws that every selector satisfies, built in or not, for the tests of a package that provides a selector.

    from curate.testing import check_pool_selector, check_selector

    def test_the_selector_satisfies_the_laws() -> None:
        check_selector(Closest, {"aim": 0.5})

`SELECTOR_LAWS` and `POOL_SELECTOR_LAWS` map the sentence of each law to the function that checks it. The laws need
torch and numpy, but no model and no test runner.
"""

from .pool_selectors import POOL_SELECTOR_LAWS, check_pool_selector
from .selectors import SELECTOR_LAWS, SelectorFactory, check_selector, made_up_candidates

__all__ = [
    "POOL_SELECTOR_LAWS",
    "SELECTOR_LAWS",
    "SelectorFactory",
    "check_pool_selector",
    "check_selector",
    "made_up_candidates",
]
