"""Find pairs of samples with similar vectors whose numbers agree.

Vectors with the same label are compared all with all, some rows at a time, up to `EXACT` of them. For more, FAISS
proposes neighbours, and a comparison of some samples with all tells which share of the pairs it found. The cosine of
each candidate is then computed from its two vectors alone, so it does not depend on the order of the pool.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import DataError
from ...log import bar
from ...store import Artifact, Store
from ...store.vectors.index import Index, build_approximate_index
from ...store.vectors.vectors import Matrix, VectorShards
from ..inputs import Inputs
from ..select.candidates import check_comparable, check_pool, check_vectors
from ..tokens.turns import answers_of
from .config import DedupConfig
from .keep import last_answers
from .pairs import Pairs, check_number
from .rows import Rows
from .sets import Hashes, Ints, Sets, blocks_of_pairs, distinct, overlap, ratio

EXACT = 1 << 18
"""Vectors of one label that are compared all with all."""
SCORES_AT_ONCE = 1 << 22
MARGIN = 1e-4
"""Distance by which the cosine of a candidate, in a product of matrices of float32, may be below the exact one."""
NEIGHBOURS, DRAWN = 64, 256
"""Neighbours of a vector that the index returns, and vectors that are compared with all to tell its recall."""
ANSWER_WORDS = 0.5
"""Least Jaccard similarity of the words of two answers to the same prompt."""


@dataclass(frozen=True)
class Found:
    """Found pairs: the pairs, the rows of the pool without a vector, and how vectors were searched."""

    pairs: Pairs
    unusable: int
    note: str


def near_by_vector(config: DedupConfig, inputs: Inputs, rows: Rows) -> Found:
    """Return the pairs of items with similar vectors.

    Args:
        config: the options.
        inputs: the pools and their features.
        rows: the rows of both pools; the builder has the single words of the answers.

    Raises:
        DataError: features are of another pool, or made by another model or with other options.
    """
    features, target = inputs.artifacts["features"], inputs.artifacts.get("target_features")
    check_pool(features, inputs.artifacts["pool"], "features")
    check_vectors(features)
    parts = [(features, rows.ids[rows.other :], rows.other)]
    if target is not None:
        check_pool(target, inputs.artifacts["against"], "target features")
        check_comparable(features, target, config.vector)
        _check_width(features, target, config.vector)
        parts.append((target, rows.ids[: rows.other], 0))
    item_of = np.full(len(rows.ids), -1, np.int64)
    item_of[rows.first] = np.arange(len(rows.first))
    labels = rows.labels
    _, group, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    wanted = np.flatnonzero(sizes[group] > 1)
    place = np.full(len(labels) + 1, -1, np.int64)  # the last one is for rows that are not the first of their item
    place[wanted] = np.arange(len(wanted))
    width = VectorShards(features.shards(), config.vector).width
    matrix, usable, unusable = np.zeros((len(wanted), width), np.float32), np.zeros(len(wanted), bool), 0
    for artifact, ids, start in parts:
        has = np.zeros(len(ids), bool)
        for found, vectors in _vectors_of(inputs.store, artifact, config.vector, ids):
            has[found] = True
            slots = place[item_of[found + start]]
            chosen = slots >= 0
            matrix[slots[chosen]] = vectors[chosen]
            usable[slots[chosen]] = True
        unusable += int((~has).sum()) if artifact is features else 0
    items, matrix = wanted[usable], matrix if usable.all() else matrix[usable]
    pairs, note = similar_vectors(matrix, labels[items], config.floor)
    pairs = Pairs(items[pairs.items], pairs.similarity, pairs.answers)
    return Found(_without_other_answers(pairs, rows.questions, rows.builders[0].sets()), unusable, note)


def _check_width(features: Artifact, target: Artifact, column: str) -> None:
    widths = [VectorShards(each.shards(), column).width for each in (features, target)]
    if widths[0] != widths[1]:
        raise DataError(
            f"The vectors of '{features.name}' have {widths[0]} numbers, those of '{target.name}' have {widths[1]} "
            "numbers: they cannot be compared. Make both with one model and the same options."
        )


def _vectors_of(store: Store, features: Artifact, column: str, ids: Sequence[str]) -> Iterator[tuple[Ints, Matrix]]:
    """Yield positions in `ids`, and their vectors; of a conversation whose answers have vectors, that of the last."""
    last = last_answers(answers_of(store, features))
    place = {last.get(sample_id, sample_id): number for number, sample_id in enumerate(ids)}
    for part in VectorShards(features.shards(), column):
        found = np.array([place.get(sample_id, -1) for sample_id in part.ids.to_pylist()], np.int64)
        yield found[found >= 0], part.matrix[found >= 0]


def _without_other_answers(pairs: Pairs, questions: Ints, answers: Sets) -> Pairs:
    """Leave out pairs of the same prompt whose answers share few words: a vector hides another short answer."""
    one, two = pairs.items.T
    same = (questions[one] == questions[two]) & (questions[one] >= 0)
    alike = ~same
    rows = np.flatnonzero(same)
    start = 0
    for block in blocks_of_pairs(pairs.items[rows], [answers]):
        alike[rows[start : start + len(block)]] = ratio(*overlap(answers, block)) >= ANSWER_WORDS
        start += len(block)
    return pairs.where(alike)


def similar_vectors(matrix: Matrix, labels: Hashes, floor: float) -> tuple[Pairs, str]:
    """Return all pairs of vectors with the same label and a cosine of at least `floor`.

    Args:
        matrix: (m, d) float32 of unit length.
        labels: (m,) label of each vector.
        floor: least cosine.

    Returns:
        The pairs of rows, and how they were searched, with the recall if not all pairs were compared. Cost: the sum
        over labels of g² d multiplications for g vectors up to `EXACT`.
    """
    order = np.argsort(labels, kind="stable")
    cuts = np.flatnonzero(np.diff(labels[order].astype(np.uint64)) != 0) + 1
    found, note = [Pairs.none()], ""
    with bar(total=len(order), label="compare", unit="sample") as progress:
        for members in np.split(order, cuts):
            progress.update(len(members))
            if len(members) < 2:
                continue
            block = np.ascontiguousarray(matrix[members])
            index = build_approximate_index(block) if len(members) > EXACT else None
            added = _checked(
                block, _all_pairs(block, floor) if index is None else _proposed(block, index, floor), floor
            )
            if index is not None:
                note = f"{index.kind}, {_recall(block, added, floor)}"
            found.append(Pairs(members[added.items], added.similarity, added.answers))
            check_number(sum(len(each.items) for each in found), floor)
    return Pairs.join(found), note or "exact, all with all"


def _all_pairs(block: Matrix, floor: float) -> Iterator[Ints]:
    """Yield (p, 2) candidates, the smaller first."""
    step = max(1, SCORES_AT_ONCE // len(block))
    for start in range(0, len(block), step):
        one, two = np.nonzero(block[start : start + step] @ block[start:].T >= floor - MARGIN)
        yield np.stack([one, two], axis=1)[two > one] + start


def _checked(block: Matrix, candidates: Iterator[Ints], floor: float) -> Pairs:
    """Return the candidates whose cosine, in float64 from float32, is at least `floor`."""
    found, count = [Pairs.none()], 0
    for pairs in candidates:
        for part in np.array_split(pairs, len(pairs) * block.shape[1] // SCORES_AT_ONCE + 1):
            one, two = (block[part[:, side]].astype(np.float64) for side in (0, 1))
            cosine = np.einsum("pd,pd->p", one, two)
            near = cosine >= floor
            found.append(Pairs(part[near], cosine[near], cosine[near]))
            count += int(near.sum())
            check_number(count, floor)
    return Pairs.join(found)


def _proposed(block: Matrix, index: Index, floor: float) -> Iterator[Ints]:
    """Yield the pairs that an index proposes and whose cosine suffices, the smaller first, each once."""
    keys = [np.zeros(0, np.int64)]
    for start in range(0, len(block), index.block):
        _, positions = index.nearest(block[start : start + index.block], min(NEIGHBOURS, len(block)))
        one, two = np.repeat(np.arange(start, start + len(positions)), positions.shape[1]), positions.ravel()
        pairs = np.sort(np.stack([one, two], axis=1)[(two >= 0) & (one != two)], axis=1)
        keys.append(_checked(block, iter([pairs]), floor).items @ np.array([len(block), 1]))
        check_number(sum(map(len, keys)), floor)
    yield np.stack(np.divmod(distinct(np.concatenate(keys)), len(block)), axis=1)


def _recall(block: Matrix, found: Pairs, floor: float) -> str:
    """Say which share of the pairs of some vectors was found, as a comparison with all vectors shows."""
    known = set(map(tuple, found.items.tolist()))
    truth = hits = 0
    drawn = np.unique(np.linspace(0, len(block) - 1, DRAWN).astype(np.int64)).tolist()
    for row in drawn:
        others = np.flatnonzero(block @ block[row] >= floor - MARGIN)
        pairs = np.sort(np.stack([others, np.full(len(others), row)], axis=1)[others != row], axis=1)
        exact = _checked(block, iter([pairs]), floor).items.tolist()
        truth, hits = truth + len(exact), hits + sum(tuple(pair) in known for pair in exact)
    return f"recall {hits / truth:.4f} on {truth} pairs of {len(drawn)} samples" if truth else "recall not known"
