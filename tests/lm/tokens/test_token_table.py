"""Tables of tokens: rows come back as they went in, and the answers of a conversation share what they begin with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.lm.tokens.encode import Encoded
from curate.lm.tokens.token_table import TokenTable
from curate.numerics.losses import IGNORE
from curate.samples import Sample, answer_id, answer_turns, expand

TOKENS = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=12)


def encoded(tokens: list[tuple[int, bool]]) -> Encoded:
    ids = np.array([token for token, _ in tokens], np.int32)
    return Encoded(ids, np.array([target for _, target in tokens], bool), len(tokens))


@given(st.lists(st.tuples(st.integers(0, 2), TOKENS), max_size=8))
def test_every_row_comes_back_whatever_the_rows_share(rows: list[tuple[int, list[tuple[int, bool]]]]) -> None:
    texts = [(position, str(number), encoded(tokens)) for number, (position, tokens) in enumerate(rows)]
    table = TokenTable(texts)
    for row, (position, _, text) in enumerate(texts):
        assert table[row]["input_ids"].tolist() == text.input_ids.tolist()
        assert table[row]["labels"].tolist() == np.where(text.target, text.input_ids, IGNORE).tolist()
        assert table[row]["input_ids"].dtype == table[row]["labels"].dtype == np.int64
        assert table.positions[row] == position and table.lengths[row] == len(text.input_ids)
    with pytest.raises(IndexError):
        table[len(texts)]


def answers(turns: int, question: int, reasoning: int, answer: int) -> Iterator[tuple[int, str, Encoded]]:
    """Encode the answers of a conversation; a later prompt has earlier answers without their reasoning."""
    rng, prompt = np.random.default_rng(0), np.zeros(0, np.int32)
    for turn in range(turns):
        asked, thought, said = (rng.integers(0, 1000, n).astype(np.int32) for n in (question, reasoning, answer))
        prompt = np.concatenate([prompt, asked])
        ids = np.concatenate([prompt, thought, said])
        yield 7, str(turn), Encoded(ids, np.arange(len(ids)) >= len(prompt), len(ids))
        prompt = np.concatenate([prompt, said])


def test_sixty_answers_need_the_memory_of_one_conversation() -> None:
    table = TokenTable(answers(60, question=100, reasoning=50, answer=100))
    assert len(table) == 60 and int(table.lengths.sum()) == sum(200 * turn + 250 for turn in range(60))
    # each turn is stored once: question, reasoning and answer, and the answer again without the reasoning before it
    assert table.nbytes <= 5 * 60 * 350
    last = list(answers(60, question=100, reasoning=50, answer=100))[-1][2]
    assert table[59]["input_ids"].tolist() == last.input_ids.tolist()
    assert table[59]["labels"].tolist() == np.where(last.target, last.input_ids, IGNORE).tolist()


def test_numbers_tell_answers_of_a_position_apart_and_are_positions_of_whole_conversations() -> None:
    rows = [(3, "a", encoded([(1, True)])), (3, "b", encoded([(1, True), (2, True)])), (5, "c", encoded([(1, True)]))]
    assert TokenTable(rows).numbers().tolist() == [3, 3, 5]
    table = TokenTable(rows, {"a": 1, "b": 3})
    assert table.numbers().tolist() == [3 + (2 << 40), 3 + (4 << 40), 5]
    assert table.numbers(np.array([1, 2])).tolist() == [3 + (4 << 40), 5]
    assert table.positions.tolist() == [3, 3, 5]


def test_ids_of_answers_are_derived_from_the_conversation_and_the_turn() -> None:
    messages = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant", "user")]
    whole = Sample(messages=messages, source="s")
    parts = expand(whole)
    assert answer_turns(messages) == [1, 3] == [part.answer for part in parts]
    assert [list(part.messages) for part in parts] == [messages[:2], messages[:4]]
    assert [part.sample_id for part in parts] == [answer_id(whole.sample_id, 1), answer_id(whole.sample_id, 3)]
    assert {part.conversation_id for part in parts} == {whole.sample_id} and {part.source for part in parts} == {"s"}
    assert all(len(part.sample_id) == 32 and int(part.sample_id, 16) >= 0 for part in parts)
    same_text = Sample(messages=messages[:2])
    assert same_text.sample_id not in {part.sample_id for part in parts}
    assert parts[0].sample_id == answer_id(whole.sample_id, 1) == expand(Sample(messages=messages))[0].sample_id


ROWS = st.lists(st.tuples(st.integers(0, 2), TOKENS), max_size=5)


@given(ROWS, ROWS, st.booleans(), st.booleans())
def test_a_table_followed_by_another_has_the_rows_of_both(
    own: list[tuple[int, list[tuple[int, bool]]]],
    other: list[tuple[int, list[tuple[int, bool]]]],
    weighted: bool,
    split: bool,
) -> None:
    tables = []
    for number, rows in enumerate((own, other)):
        texts = [(position, f"{number}-{row}", encoded(tokens)) for row, (position, tokens) in enumerate(rows)]
        turns = {name: row for row, (_, name, _) in enumerate(texts)} if split and number else None
        tables.append(TokenTable(texts, turns))
    if weighted:
        tables[0].weights = np.arange(len(own)) + 2.0
    joined = tables[0].followed_by(tables[1])
    both = [(table, row) for table in tables for row in range(len(table))]
    assert len(joined) == len(both) and joined.first_replayed == len(own)
    for row, (table, index) in enumerate(both):
        for key in ("input_ids", "labels"):
            assert joined[row][key].tolist() == table[index][key].tolist()
        for name in ("positions", "lengths", "target_tokens", "truncated"):
            assert getattr(joined, name)[row] == getattr(table, name)[index]
        assert joined.ids[row] == table.ids[index] and joined.numbers()[row] == table.numbers()[index]
    if weighted:
        assert joined.weights is not None and joined.weights.tolist() == [*tables[0].weights, *[1.0] * len(other)]
    assert joined.id_array.to_pylist() == joined.ids
