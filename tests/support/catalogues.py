"""Let each empty catalogue be a copy of the first: hundreds of tests make one, and DuckDB takes 0.15 s for it.

A copy stands only for a file that `Catalog.make` would create from the same statements. Tests in tests/store create
all of theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

_copies = True


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note whether the test, and the fixtures that are made for it, may have copies."""
    global _copies
    _copies = item.path.parent.name != "store"


@pytest.fixture(scope="session", autouse=True)
def copied_catalogues() -> Iterator[None]:
    """Make the first empty catalogue, and copy its bytes for the others."""
    from curate.store.artifacts.safe_files import remove_tree
    from curate.store.catalog import layout
    from curate.store.catalog.catalog import Catalog

    make, empty = Catalog.make, dict[tuple[str, str], bytes]()

    def copy(self: Catalog, path: Path, records: Sequence[tuple[str, Path]] = ()) -> None:
        statements = layout._layout()
        if records or not _copies:
            make(self, path, records)
        elif statements in empty:
            remove_tree(path)
            path.write_bytes(empty[statements])
        else:
            make(self, path)
            if not path.with_name(f"{path.name}.wal").exists():
                empty[statements] = path.read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Catalog, "make", copy)
        yield
