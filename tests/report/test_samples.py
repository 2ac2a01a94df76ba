"""Tests of the samples and the agreement of `curate report`, against plain loops over the ledger."""

from __future__ import annotations

import shutil
import statistics
from collections import Counter
from pathlib import Path

import pytest

from curate import Store
from curate.report.samples import CUT, LONGEST, question_and_answer, shorten
from tests.support.reports import FAMILIES, LEDGERS, POOL, N, Row, add_run, label, near, page_content, part, store_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_of(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(made: Path) -> Row:
    """Return the content of the page about the runs a and b."""
    return page_content(Store(made), "a", "b", by=("task",))


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(made, tmp_path / "store"))


def position(n: int) -> int:
    return 3 if n == 33 else n


def test_samples_are_what_the_pool_and_the_ledger_say(page: Row, made: Path) -> None:
    shown = page["samples"]
    assert (shown["total"], shown["shown"], shown["cut"]) == (N - 1, N - 1, 0)
    assert shown["position"] == [n for n in range(N) if n != 33]
    assert shown["prompt"] == [POOL[n]["instruction"] for n in shown["position"]]
    assert shown["answer"] == [POOL[n]["output"] for n in shown["position"]]
    for by in ("source", "family", "noise", "task"):
        labels = shown["labels"][by]
        values = [labels["values"][code] if code >= 0 else None for code in labels["codes"]]
        assert values == [label(n, by) for n in shown["position"]]
    assert set(shown["labels"]["family"]["values"]) == {name for name in FAMILIES if name}
    for run, ledger in zip(shown["runs"], LEDGERS.values(), strict=True):
        for place, n in enumerate(shown["position"]):
            own = [row for row in ledger if position(row["n"]) == n]
            assert (run["offered"][place], run["kept"][place]) == (len(own), sum(row["kept"] for row in own))
            for name in ("score", "utility", "diversity", "loss"):
                seen = [part(row, name) for row in own if part(row, name) is not None]
                assert run["columns"][name][place] == near(seen[-1] if seen else None)
            losses = [row["loss"] for row in own if row["loss"] is not None]
            assert run["columns"]["volatility"][place] == near(statistics.pstdev(losses) if losses else None)
        assert sum(run["kept"]) == sum(row["kept"] for row in ledger)
    assert any("1 of the pool's 40 rows repeat a conversation" in note for note in page["notes"])


def test_of_a_larger_pool_the_kept_come_first_and_then_chance(store: Store) -> None:
    times = Counter(position(row["n"]) for ledger in LEDGERS.values() for row in ledger if row["kept"])
    few = page_content(store, "a", "b", max_samples=4)
    assert few["samples"]["shown"] == 4 and few["samples"]["total"] == N - 1
    least = sorted(times.values(), reverse=True)[3]
    assert all(times[n] >= least for n in few["samples"]["position"])
    assert {n for n, count in times.items() if count > least} <= set(few["samples"]["position"])
    note = next(note for note in few["notes"] if "are shown" in note)
    assert note.startswith(
        f"The pool has 39 samples; 4 are shown: the most often kept of the {len(times)} that a run ever kept"
    )
    most = page_content(store, "a", "b", max_samples=len(times) + 2)
    assert set(times) < set(most["samples"]["position"]) and most["samples"]["shown"] == len(times) + 2
    assert any(
        f"all {len(times)} that a run ever kept, and random other ones (seed 0)" in note for note in most["notes"]
    )
    assert (
        most["samples"]["position"] == page_content(store, "a", "b", max_samples=len(times) + 2)["samples"]["position"]
    )
    whole = page_content(store, "a", "b")
    for part_of in ("groups", "agreement"):
        assert most[part_of] == whole[part_of], "the other parts are of all"


def test_a_run_is_shown_as_it_was_asked_for(store: Store) -> None:
    add_run(store, "again", LEDGERS["a"], 1)
    page = page_content(store, "b", "again")
    assert [run["name"] for run in page["runs"]] == page["agreement"]["runs"] == ["b", "again"]
    assert page["runs"][1]["kept"] == sum(row["kept"] for row in LEDGERS["a"])
    assert page["title"] == "b · again"


def test_agreement_is_of_what_both_were_offered(page: Row, made: Path) -> None:
    found = page["agreement"]
    offered = {name: {position(row["n"]) for row in ledger} for name, ledger in LEDGERS.items()}
    kept = {name: {position(row["n"]) for row in ledger if row["kept"]} for name, ledger in LEDGERS.items()}
    both = offered["a"] & offered["b"]
    a, b = kept["a"] & both, kept["b"] & both
    assert found["shared"] == [[len(kept["a"]), len(a & b)], [len(a & b), len(kept["b"])]]
    assert found["jaccard"] == [[1, near(len(a & b) / len(a | b))], [near(len(a & b) / len(a | b)), 1]]
    chance = len(a) * len(b) / len(both)
    assert found["chance"][0] == [None, near(chance / (len(a) + len(b) - chance))]
    assert found["offered"][0] == [None, len(both)]
    expected = Store(made).query("SELECT jaccard FROM selector_agreement WHERE run = 'a' AND other = 'b'").to_pylist()
    assert found["jaccard"][0][1] == near(expected[0]["jaccard"])


# Texts


TURNS = [
    {"role": role, "content": role[0], "extra": None} for role in ("system", "user", "assistant", "user", "assistant")
]
CALL = {"role": "assistant", "content": None, "extra": '{"tool_calls":[{"name":"f"}]}'}


@pytest.mark.parametrize(
    ("messages", "prompt", "answer"),
    [
        (TURNS[1:3], "u", "a"),
        (TURNS[:3], "system: s\n\nuser: u", "a"),
        (TURNS, "system: s\n\nuser: u\n\nassistant: a\n\nuser: u", "a"),
        (TURNS[:4], "system: s\n\nuser: u\n\nassistant: a\n\nuser: u", ""),
        ([TURNS[1], CALL], "u", '{"tool_calls":[{"name":"f"}]}'),
        ([TURNS[1], CALL | {"content": "x"}, TURNS[2]], 'user: u\n\nassistant: x\n{"tool_calls":[{"name":"f"}]}', "a"),
        ([{"role": "text", "content": "once", "extra": None}], "", "once"),
        ([], "", ""),
    ],
)
def test_a_conversation_is_its_last_answer_and_all_before_it(messages: list[Row], prompt: str, answer: str) -> None:
    assert question_and_answer(messages) == (prompt, answer)


def test_long_texts_are_cut_and_say_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shorten("x" * LONGEST) == "x" * LONGEST and shorten("x" * (LONGEST + 1)) == "x" * LONGEST + CUT
    monkeypatch.setattr("curate.report.samples.LONGEST", 10)
    page = page_content(store, "a")
    assert all(len(text) <= 10 + len(CUT) for text in page["samples"]["prompt"])
    texts = [text for n, row in enumerate(POOL) if n != 33 for text in (row["instruction"], row["output"])]
    long = sum(len(text) > 10 for text in texts)
    assert page["samples"]["cut"] == long and f"{long} texts are cut at 10 characters." in page["notes"]
