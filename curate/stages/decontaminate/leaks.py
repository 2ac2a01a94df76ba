"""Find the rows of a pool that hold held-out rows: one verdict for each pair, with its evidence.

Each pair that some score proposes is read once more, and its numbers and signs of arithmetic are compared: a problem
with other numbers is another problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
import scipy.sparse as sparse

from ..dedup.sets import Hashes, Ints
from .numbers import in_order, none_missing
from .scores import TOLERANCE, Floats, Matched, contained, members_of, reversed_pairs, shares, weights
from .words import Text, Words

LENGTH = 3
"""Words in a sequence."""
EVIDENCE = 3.0
"""Least evidence of a question: as much as three sequences of words that no other text has."""
ANSWER_EVIDENCE = 8.0
"""Least evidence of an answer by itself."""
WORDS = 0.8
"""Least share of the words of a held-out question, weighted by rarity as sequences are."""
NEIGHBOUR_WORDS = 0.7
"""The same for samples with similar embeddings."""
VERBATIM = 0.8
"""Share of a held-out question from which on it counts as contained, and below as reworded."""
TRUNCATED = 0.9
"""Least share of a question of the pool that is in the held-out question, if it is a cut one."""
SHOWN_WORDS = 40


@dataclass(frozen=True)
class Row:
    """A row of a pool.

    Attributes:
        sample_id: id of the sample.
        position: row in the pool.
        question: text before the last answer.
        answer: the last answer.
    """

    sample_id: str
    position: int
    question: str
    answer: str


@dataclass(frozen=True)
class Held:
    """A held-out row as words.

    Attributes:
        row: the row.
        against: name of its pool or task.
    """

    row: Row
    against: str

    @cached_property
    def question(self) -> Text:
        """Words of the question."""
        return Text.of(self.row.question)

    @cached_property
    def answer(self) -> Text:
        """Words of the answer."""
        return Text.of(self.row.answer)


@dataclass(frozen=True)
class Leak:
    """A row of the pool that holds a held-out row.

    Attributes:
        row: the row of the pool.
        held: index of the held-out row.
        kind: exact, contained, reworded, neighbour, truncated or answer.
        score: share of the held-out text that is in the row; for truncated, share of the row's question that is in the
            held-out question.
        evidence: sum of the weights of the shared sequences; for neighbour, of the shared words.
        passage: longest sequence of words that both have.
    """

    row: Row
    held: int
    kind: str
    score: float
    evidence: float
    passage: str


class HeldOut:
    """Held-out rows, indexed by their sequences of words.

    Args:
        rows: the rows.
    """

    def __init__(self, rows: Sequence[Held]) -> None:
        self.rows = rows
        questions = [row.question.shingles(LENGTH) for row in rows]
        answers = [row.answer.shingles(LENGTH) for row in rows]
        single = [row.question.shingles(1) for row in rows]
        self.known = _union(questions + answers)
        self.known_words = _union(single)
        self.questions = members_of(self.known, questions)
        self.answers = members_of(self.known, answers)
        self.words = members_of(self.known_words, single)
        distinct = {_key(row.question, row.answer): place for place, row in enumerate(rows)}
        self.distinct = np.array(sorted(distinct.values()), np.int64)


def _union(sets: Sequence[Hashes]) -> Hashes:
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *sets]))


def _key(question: Text, answer: Text) -> bytes:
    return blake2b(repr((question.key, answer.key)).encode("utf-8", "surrogatepass"), digest_size=16).digest()


class Scan:
    """The distinct texts of a pool, by the sequences that they share with the held-out rows.

    Args:
        held: the held-out rows.
        rows: rows of the pool.
    """

    def __init__(self, held: HeldOut, rows: Iterable[Row]) -> None:
        self.held = held
        self.items: list[int] = []
        """Text of each row of the pool."""
        self.positions: list[int] = []
        self.exact: list[list[int]] = []
        """Held-out rows with the question of each text."""
        questions = Matched(held.known)
        whole = Matched(held.known)
        words = Matched(held.known_words)
        known: dict[bytes, int] = {}
        by_question: dict[object, list[int]] = {}
        for place, each in enumerate(held.rows):
            if each.question.parts:
                by_question.setdefault(each.question.key, []).append(place)
        for row in rows:
            question, answer = Text.of(row.question), Text.of(row.answer)
            item = known.setdefault(_key(question, answer), len(known))
            self.items.append(item)
            self.positions.append(row.position)
            if item < len(self.exact):
                continue
            self.exact.append(by_question.get(question.key, []))
            asked = question.shingles(LENGTH)
            questions.add(asked)
            whole.add(np.union1d(asked, answer.shingles(LENGTH)))
            words.add(np.union1d(question.shingles(1), answer.shingles(1)))
        self.questions, self.sizes = questions.matrix(), np.array(questions.sizes, np.int64)
        self.whole, self.words = whole.matrix(), words.matrix()
        self.texts = len(known) + len(held.distinct)
        seen = sparse.csr_matrix(held.questions + held.answers).sign()[held.distinct]
        self.held_questions = self._weighted(held.questions, self.whole, seen)
        self.held_answers = self._weighted(held.answers, self.whole, seen)
        self.held_words = self._weighted(held.words, self.words, held.words[held.distinct])

    def _weighted(
        self, held: sparse.csr_matrix, texts: sparse.csr_matrix, distinct: sparse.csr_matrix
    ) -> sparse.csr_matrix:
        """Return the sets of held-out rows with the weight of each member."""
        counts = np.asarray(texts.sum(axis=0)).ravel() + np.asarray(distinct.sum(axis=0)).ravel()
        return sparse.csr_matrix(held.multiply(weights(counts, self.texts)[None, :]))


@dataclass(frozen=True)
class Proposal:
    """Pairs of a text of the pool and a held-out row that may be a leak of a kind."""

    kind: str
    pairs: Ints
    score: Floats
    evidence: Floats


def propose(scan: Scan, threshold: float, neighbours: Ints | None = None, *, cheap: bool = False) -> list[Proposal]:
    """Return the pairs whose scores suffice, by kind, the strongest kind first; numbers are not compared.

    Args:
        scan: the texts of the pool.
        threshold: least share of a held-out question.
        neighbours: (p, 2) pairs of a text of the pool and a held-out row with similar embeddings.
        cheap: True for questions that are the same, or contained with a share of `VERBATIM`, only.
    """
    exact = np.array([(item, row) for item, rows in enumerate(scan.exact) for row in rows], np.int64).reshape(-1, 2)
    found = [_kept("exact", exact, *shares(scan.whole, scan.held_questions, exact))]
    if cheap:
        return [*found, *_contained(scan, VERBATIM)]
    found += _contained(scan, threshold)
    if neighbours is not None:
        score, evidence = shares(scan.words, scan.held_words, neighbours)
        found.append(_kept("neighbour", neighbours, score, evidence, NEIGHBOUR_WORDS, 1))
    pairs = reversed_pairs(scan.questions, scan.sizes, scan.held_questions, TRUNCATED)
    _, evidence = shares(scan.questions, scan.held_questions, pairs)
    _, common = shares(scan.questions, scan.held.questions, pairs)
    found.append(_kept("truncated", pairs, common / scan.sizes[pairs[:, 0]], evidence, TRUNCATED, EVIDENCE))
    pairs = contained(scan.whole, scan.held_answers, VERBATIM)
    found.append(_kept("answer", pairs, *shares(scan.whole, scan.held_answers, pairs), VERBATIM, ANSWER_EVIDENCE))
    return found


def _contained(scan: Scan, threshold: float) -> Iterator[Proposal]:
    """Yield the pairs whose held-out question is in the text of the pool, and those where it is only reworded."""
    pairs = contained(scan.whole, scan.held_questions, threshold)
    score, evidence = shares(scan.whole, scan.held_questions, pairs)
    enough = (score >= threshold - TOLERANCE) & (evidence >= EVIDENCE - TOLERANCE)
    pairs, score, evidence = pairs[enough], score[enough], evidence[enough]
    words, word_evidence = shares(scan.words, scan.held_words, pairs)
    same = (words >= WORDS - TOLERANCE) & (word_evidence >= 1 - TOLERANCE)
    verbatim = score >= VERBATIM - TOLERANCE
    for kind, chosen in (("contained", same & verbatim), ("reworded", same & ~verbatim)):
        yield Proposal(kind, pairs[chosen], score[chosen], evidence[chosen])


def _kept(kind: str, pairs: Ints, score: Floats, evidence: Floats, least: float = 0.0, floor: float = 0.0) -> Proposal:
    kept = (score >= least - TOLERANCE) & (evidence >= floor - TOLERANCE)
    return Proposal(kind, pairs[kept], score[kept], evidence[kept])


def decide(scan: Scan, proposals: Sequence[Proposal], rows: Iterable[Row]) -> list[Leak]:
    """Return the leaks among the proposed pairs: of each pair the strongest kind whose numbers agree.

    Args:
        scan: the texts of the pool.
        proposals: the pairs, by kind.
        rows: rows of the pool, once more.
    """
    by_item: dict[int, list[tuple[int, str, float, float]]] = {}
    for each in proposals:
        for (item, held), score, evidence in zip(
            each.pairs.tolist(), each.score.tolist(), each.evidence.tolist(), strict=True
        ):
            by_item.setdefault(item, []).append((held, each.kind, min(score, 1.0), evidence))
    if not by_item:
        return []
    item_of = dict(zip(scan.positions, scan.items, strict=True))
    leaks: list[Leak] = []
    verdicts: dict[int, list[tuple[int, str, float, float, str]]] = {}
    for row in rows:
        item = item_of[row.position]
        if item not in by_item:
            continue
        if item not in verdicts:
            verdicts[item] = list(_verdicts(row, by_item[item], scan.held.rows))
        leaks += [Leak(row, *verdict) for verdict in verdicts[item]]
    return leaks


def _verdicts(
    row: Row, proposed: Sequence[tuple[int, str, float, float]], rows: Sequence[Held]
) -> Iterable[tuple[int, str, float, float, str]]:
    question, answer = Text.of(row.question), Text.of(row.answer)
    whole = Text(question.body + answer.body, question.options + answer.options)
    taken: set[int] = set()
    for held, kind, score, evidence in proposed:
        if held in taken:
            continue
        text = rows[held].answer if kind == "answer" else rows[held].question
        if _numbers_agree(kind, text, question, whole):
            taken.add(held)
            length = 1 if kind == "neighbour" else LENGTH
            yield held, kind, score, evidence, passage(text, whole, length)


def _numbers_agree(kind: str, held: Text, question: Text, whole: Text) -> bool:
    if kind == "exact":
        return True
    if kind == "truncated":
        return none_missing(question, held)
    if kind in ("reworded", "neighbour"):
        return in_order(held, question) and in_order(question, held)
    return in_order(held, whole)


def passage(held: Text, text: Text, length: int) -> str:
    """Return the longest sequence of words of a held-out text that shared sequences cover, at most `SHOWN_WORDS`."""
    known = {key for part in text.parts for key in _sequences(part, length)}
    best: Words = ()
    for part in held.parts:
        covered = np.zeros(len(part) + 1, bool)
        for place, key in enumerate(_sequences(part, length)):
            if key in known:
                covered[place : place + len(key)] = True
        edges = np.flatnonzero(np.diff(np.concatenate([[False], covered]).astype(np.int8)))
        for start, stop in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            best = max(best, part[start:stop], key=len)
    return " ".join(best[:SHOWN_WORDS]) + (" …" if len(best) > SHOWN_WORDS else "")


def _sequences(words: Words, length: int) -> list[Words]:
    size = min(length, len(words))
    return [words[place : place + size] for place in range(len(words) - size + 1)] if size else []


def find_leaks(
    rows: Callable[[], Iterable[Row]],
    held: Sequence[Held],
    threshold: float,
    neighbours: Callable[[Scan], Ints] | None = None,
    *,
    cheap: bool = False,
) -> list[Leak]:
    """Return the leaks of held-out rows into a pool, in the order of the pool.

    Args:
        rows: returns the rows of the pool, in order; called twice.
        held: the held-out rows.
        threshold: least share of a held-out question that is in a row.
        neighbours: returns pairs with similar embeddings, as texts of the pool and held-out rows.
        cheap: True for questions that are the same, or contained with a share of `VERBATIM`, only.
    """
    scan = Scan(HeldOut(held), rows())
    proposals = propose(scan, threshold, None if neighbours is None else neighbours(scan), cheap=cheap)
    return decide(scan, proposals, rows())
