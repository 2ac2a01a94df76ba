"""A small part of `python -m tests.fuzz`: the same generators, the same laws."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate.errors import DataError
from curate.formats import Unusable, detect, read_location, to_sample
from curate.samples import from_row, to_table

from .files import MAKERS, Batch
from .laws import check_file, same
from .rows import KINDS, as_json, chat_row, good_row, odd_line


@pytest.mark.parametrize("number", range(12))
def test_files_of_any_kind_break_no_law(tmp_path: Path, number: int) -> None:
    tally = check_file(f"test/{number}", tmp_path / "file", 25, exports=number % 4 == 0)
    assert tally.broken_laws == []
    assert tally.counts["files"] == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(KINDS)), st.sampled_from([good_row, chat_row]), st.randoms(use_true_random=False))
def test_a_row_of_any_kind_is_kept_as_it_is_or_refused_in_a_few_words(kind: str, base: Any, rng: Random) -> None:
    row = KINDS[kind](rng, base(rng, 1))
    given_columns = {"messages": "messages"} if "messages" in row else {}
    try:
        sample = to_sample(row, detect([base(rng, 1), row], given_columns, "f"))
    except (Unusable, DataError) as reason:
        assert str(reason) and "Traceback" not in str(reason)
        return
    again = from_row(to_table([sample], 0).to_pylist()[0])
    assert again.sample_id == sample.sample_id and same(again.original, row)


@pytest.mark.parametrize("seed", range(4))
def test_every_line_is_a_row_or_has_a_reason(tmp_path: Path, seed: int) -> None:
    rng = Random(seed)
    lines = [odd_line(rng, number) for number in range(60)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(line.raw for line in lines))
    rows = {row.number: row for row in read_location(str(tmp_path / "a.jsonl"), split="train")}
    for number, line in enumerate(lines, 1):
        assert rows[number].values is not None or rows[number].reason
        if line.row is not None and rows[number].values is not None:
            assert as_json(rows[number].values) == as_json(line.row)


@pytest.mark.parametrize("maker", sorted(MAKERS))
def test_the_same_seed_makes_the_same_file(tmp_path: Path, maker: str) -> None:
    def made(folder: str) -> Batch:
        (tmp_path / folder).mkdir()
        return MAKERS[maker](Random(5), tmp_path / folder, 6)

    one, other = made("one"), made("other")
    assert one.path.name == other.path.name and one.good == other.good and one.rows == other.rows
