"""`curate decontaminate`: a subset without the rows that hold held-out rows, the table of them, and its errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from curate import Artifact, make
from curate.errors import ConfigError, CurateError, DataError
from curate.stages.decontaminate.check import contact, report
from curate.store import Store
from tests.support.exports import ingest

WORDS = "the quick brown fox jumps over a lazy dog while seven grey herons watch from their nest near the old mill"
OTHER = "an honest baker sells warm loaves of dark rye bread to tired sailors who came ashore in the early morning fog"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store(tmp_path / "store")


def pool(store: Store, prompts: list[str], name: str = "pool", **options: Any) -> list[str]:
    rows = [{"instruction": prompt, "input": "", "output": f"{name} {n}"} for n, prompt in enumerate(prompts)]
    return ingest(store, rows, name, **options)


def decontaminate(store: Store, name: str = "c", **values: Any) -> Artifact:
    return make(store, "decontaminate", name=name, **{"pool": "pool", "against": ["held"], **values})


def test_the_subset_has_the_other_samples_and_the_table_has_the_pairs(store: Store) -> None:
    held = pool(store, [WORDS, "Say hi", f"{OTHER} 5 times", "Never asked before"], "held")
    prompts = [f"Look: {WORDS}", "What now?", "say hi!", f"{OTHER} 6 times", WORDS[: len(WORDS) * 2 // 3], "And then?"]
    ids = pool(store, prompts, shard_rows=2)
    made = decontaminate(store)
    kept = [ids[n] for n in (1, 3, 5)]
    assert store.get("c").table()["sample_id"].to_pylist() == kept
    rows = store.query("SELECT sample_id, \"rank\" FROM subsets WHERE subset = 'c' ORDER BY 2").to_pylist()
    assert rows == [{"sample_id": sample_id, "rank": n} for n, sample_id in enumerate(kept)]
    leaks = store.query("SELECT * FROM leaks WHERE subset = 'c' ORDER BY position").to_pylist()
    names = ("pool", "sample_id", "position", "against", "against_sample_id", "against_position", "kind")
    assert [tuple(leak[name] for name in names) for leak in leaks] == [
        ("pool", ids[0], 0, "held", held[0], 0, "contained"),
        ("pool", ids[2], 2, "held", held[1], 1, "exact"),
        ("pool", ids[4], 4, "held", held[0], 0, "truncated"),
    ]
    assert (
        leaks[0]["passage"] == WORDS.replace("seven", "7")
        and leaks[0]["score"] == pytest.approx(1)
        and leaks[0]["evidence"] > 10
    )
    assert made.summary["held-out rows in the pool"] == 2 and made.summary["rows of the pool with one"] == 3
    assert made.summary["as exact"] == 1 and ids[0] in made.summary["first leaks"]
    pool(store, prompts, "whole")
    decontaminate(store, "again", pool="whole")
    again = store.query(
        "SELECT * EXCLUDE (subset, pool, sample_id) FROM leaks WHERE subset = 'again' ORDER BY position"
    )
    assert again.to_pylist() == [
        {key: value for key, value in leak.items() if key not in ("subset", "pool", "sample_id")} for leak in leaks
    ]
    make(store, "subset", name="fewer", pool="pool", base=["c"])
    assert make(store, "export", name="out", subset="fewer", file_format="jsonl").rows == 3
    assert decontaminate(store, "strict", threshold=1.0).summary["rows of the pool with one"] == 3


def test_rows_that_hold_a_sample_again_are_counted(store: Store) -> None:
    pool(store, [WORDS], "held")
    rows = [{"instruction": prompt, "input": "", "output": "x"} for prompt in (OTHER, "What now?", OTHER, OTHER)]
    ingest(store, rows, "pool")
    summary = decontaminate(store).summary
    assert (summary["samples"], summary["of the rows of the pool"], summary["rows of the pool with one"]) == (2, 4, 0)
    assert summary["rows that hold a sample again"] == 2
    pool(store, [OTHER, "What now?"], "distinct")
    assert "rows that hold a sample again" not in decontaminate(store, "d", pool="distinct").summary


def test_several_pools_are_held_out_at_once(store: Store) -> None:
    pool(store, [WORDS], "held")
    pool(store, [OTHER], "more")
    ids = pool(store, [OTHER, "What now?", WORDS])
    decontaminate(store, against=["more", "held"])
    leaks = store.query("SELECT against, sample_id FROM leaks ORDER BY position").to_pylist()
    assert leaks == [{"against": "more", "sample_id": ids[0]}, {"against": "held", "sample_id": ids[2]}]


def test_bad_input_is_one_sentence_and_leaves_nothing(store: Store) -> None:
    pool(store, ["Ask this", "Ask that"])
    pool(store, ["ask this", "ask that?"], "held")
    pool(store, ["?"], "blank")
    bad: dict[str, dict[str, Any]] = {
        "--against names the same pool as --pool": {"against": ["held", "pool"]},
        "There is nothing named 'hold' .* Did you mean 'held'": {"against": ["hold"]},
        "There is nothing named 'pol' .* Did you mean 'pool'": {"pool": "pol"},
        "Each of the 2 samples holds a held-out row": {},
        "--against names something twice": {"against": ["held", "held"]},
        "Neighbours need both --features and --target-features": {"features": "f"},
        "--neighbours has an effect only with --features": {"neighbours": 3},
        "--task-folder and --default-tasks have an effect only with a task": {"default_tasks": True},
        "threshold": {"threshold": float("nan")},
        "against": {"against": []},
    }
    for message, values in bad.items():
        with pytest.raises(CurateError, match=message) as error:
            decontaminate(store, **values)
        assert "\n" not in str(error.value)
    assert not store.has("c")


def test_neighbours_by_embeddings_are_checked_by_their_words(store: Store, tiny: str) -> None:
    shuffled = (
        "grey seven watch herons their from nest near mill the old dog lazy a over jumps fox brown quick the while"
    )
    pool(store, [WORDS], "held")
    ids = pool(store, ["What now?", shuffled, OTHER])
    for name in ("pool", "held"):
        make(store, "embed", name=f"{name}-f", pool=name, model=tiny, max_length=120, signals=["embedding"])
    assert decontaminate(store).rows == 3
    features = {"features": "pool-f", "target_features": "held-f"}
    decontaminate(store, "near", neighbours=3, **features)
    leaks = store.query("SELECT sample_id, kind FROM leaks WHERE subset = 'near'").to_pylist()
    assert leaks == [{"sample_id": ids[1], "kind": "neighbour"}]
    with pytest.raises(DataError, match="'pool-f' are of none of the pools of --against"):
        decontaminate(store, "no", features="pool-f", target_features="pool-f")
    with pytest.raises(DataError, match="'held-f' are not of the pool 'pool'"):
        decontaminate(store, "no", features="held-f", target_features="held-f")


def test_a_pool_in_touch_with_a_held_out_one_is_counted(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    held = pool(store, [WORDS, OTHER], "held")
    ids = pool(store, [f"Look: {WORDS}", "What now?", OTHER, OTHER])
    found = contact(store.get("pool"), store.get("held"))
    assert (found.rows, found.held_rows, found.of_held_rows, found.first) == (3, 2, 2, (ids[0], held[0]))
    assert contact(store.get("pool"), store.get("held"), {ids[1]}).rows == 0
    measured = contact(store.get("pool"), store.get("held"), None, {held[1]})
    assert (measured.rows, measured.held_rows, measured.of_held_rows) == (2, 1, 1)
    same = contact(store.get("held"), store.get("held"))
    assert (same.rows, same.held_rows) == (2, 2) and "which is the pool itself" in same.sentence
    assert "Hold rows out: curate split --pool held" in same.sentence
    assert contact(store.get("held"), store.get("held"), {held[0]}, {held[1]}).rows == 0
    report([found, found], strict=False)
    assert caplog.text.count("3 rows of 'pool' hold 2 of the 2 rows of 'held'") == 1
    with pytest.raises(DataError, match=r"3 rows of 'pool' hold .* Without --strict this is a warning"):
        report([found], strict=True)


def test_what_the_check_counts_is_what_the_command_finds_whichever_rows_a_run_kept(store: Store) -> None:
    things = ["potato", "kettle", "window", "garden", "violin", "copper", "bridge", "candle", "winter", "market"]
    asked = [f"How many times does the letter r occur in {thing} ginger morning?" for thing in things]
    ids = pool(store, [*asked[:8], f"Look: {WORDS}", "What now?"])
    pool(store, [*asked[8:], WORDS], "held")
    decontaminate(store, "clean")
    found = {row["sample_id"] for row in store.query("SELECT sample_id FROM leaks WHERE subset = 'clean'").to_pylist()}
    alone = {each for each in ids if contact(store.get("pool"), store.get("held"), {each}).rows}
    assert alone == found == {ids[8]}
    assert contact(store.get("pool"), store.get("held")).rows == 1


def test_options_are_built_from_flags(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"against.*is missing"):
        make(store, "decontaminate", name="c", pool="pool")
