"""Group the copies of a pool, and choose the row of each group that is kept.

Rows with the same normalized text form one item. Items that are similar form a group, through each other, too. A row of
the other pool goes before all rows of the pool, so that nothing of its group is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from .pairs import Pairs
from .rows import Compared
from .sets import Floats, Ints

DUPLICATES = pa.schema(
    {
        "sample_id": pa.string(),
        "other_id": pa.string(),
        "across": pa.bool_(),
        "kind": pa.string(),
        "jaccard": pa.float64(),
        "cosine": pa.float64(),
    }
)


@dataclass(frozen=True)
class Groups:
    """The groups of rows.

    Attributes:
        group: (n,) smallest item of the group of each row's item.
        kept: rows of the pool that are kept, ascending.
        counts: number of groups with more than one row, and of removed rows by kind.
        pairs: rows of the table `duplicates`.
    """

    group: Ints
    kept: Ints
    counts: dict[str, int]
    pairs: pa.Table


def group(rows: Compared, threshold: float, scores: Floats | None = None, *, cosine: bool = False) -> Groups:
    """Group the rows, choose the row of each item and group that is kept, and list all pairs.

    Args:
        rows: both pools.
        threshold: least similarity of near copies.
        scores: (n,) of the rows of a group the one with the highest score is kept, of equal ones the first; NaN is
            below all numbers. Without scores the first is kept.
        cosine: True if similarities are cosines, and not Jaccard similarities.
    """
    near, below = rows.pairs.at(threshold), rows.pairs.below(threshold)
    groups = components(len(rows.questions), near.items)[rows.items]
    index = np.arange(len(rows.items))
    order = index if scores is None else np.lexsort((index, -scores, index >= rows.other))  # NaN is the last
    best_of_item, best_of_group = _first_of(rows.items, order), _first_of(groups, order)
    removed = (best_of_group[groups] != index) & (index >= rows.other)
    exact = removed & (best_of_item[rows.items] != index)
    against = _contradictions(rows, groups, best_of_item)
    copies = np.flatnonzero(exact)
    column = "cosine" if cosine else "jaccard"
    tables = [
        _table(
            rows, np.stack([copies, best_of_item[rows.items[copies]]], axis=1), "exact", np.ones(len(copies)), column
        )
    ]
    for kind, pairs in (("near", near), ("similar", below)):
        tables.append(_table(rows, *_oriented(rows, pairs, best_of_item, removed, kind), column))
    tables.append(_table(rows, against, "contradiction", None, column))
    kept = index[(index >= rows.other) & ~removed]
    counts = {
        "groups of copies": int((np.unique(groups[index >= rows.other], return_counts=True)[1] > 1).sum()),
        "removed as exact copies": int(exact.sum()),
        "removed as near copies": int((removed & ~exact).sum()),
        "removed with a copy in the other pool": int((removed & (best_of_group[groups] < rows.other)).sum()),
        "contradictions": len(against),
    }
    return Groups(groups, kept, counts, pa.concat_tables(tables))


def _oriented(rows: Compared, pairs: Pairs, best: Ints, removed: np.ndarray, kind: str) -> tuple[Ints, str, Floats]:
    """Return pairs of rows, their kind and similarity. The first row is of the pool, left out, or the later one."""
    one, two = best[pairs.items].T
    first = np.where(removed[one] & ~removed[two], one, two)
    first = np.where(first < rows.other, one + two - first, first)
    found = np.stack([first, one + two - first], axis=1)
    own = found[:, 0] >= rows.other
    return found[own], kind, pairs.similarity[own]


def _first_of(labels: Ints, order: Ints) -> Ints:
    """Return for each label the row that comes first in `order`."""
    found = np.zeros(labels.max(initial=-1) + 1, np.int64)
    found[labels[order[::-1]]] = order[::-1]
    return found


def components(count: int, pairs: Ints) -> Ints:
    """Return (count,) the smallest member of each item's connected component."""
    from scipy import sparse

    ones = np.ones(len(pairs), bool)
    graph = sparse.coo_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    _, labels = sparse.csgraph.connected_components(graph, directed=False)
    smallest = _first_of(labels.astype(np.int64), np.arange(count))
    return np.asarray(smallest[labels], np.int64)


def _contradictions(rows: Compared, groups: Ints, best: Ints) -> Ints:
    """Return (p, 2) rows whose prompt has another answer in the first group with this prompt, and that one's row."""
    asked = np.flatnonzero(rows.questions >= 0)
    found = np.stack([best[asked], best[rows.questions[asked]]], axis=1)
    chosen = (groups[found[:, 0]] != groups[found[:, 1]]) & (found[:, 0] >= rows.other)
    return np.asarray(found[chosen], np.int64)


def _table(rows: Compared, pairs: Ints, kind: str, similarity: Floats | None, column: str) -> pa.Table:
    """Return rows of the table `duplicates`; `column` has the similarity."""
    columns = {
        "sample_id": [rows.ids[row] for row in pairs[:, 0].tolist()],
        "other_id": [rows.ids[row] for row in pairs[:, 1].tolist()],
        "across": pairs[:, 1] < rows.other,
        "kind": [kind] * len(pairs),
        "jaccard": pa.nulls(len(pairs), pa.float64()),
        "cosine": pa.nulls(len(pairs), pa.float64()),
    }
    return pa.table(columns if similarity is None else {**columns, column: similarity}, schema=DUPLICATES)
