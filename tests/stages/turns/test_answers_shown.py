"""What people see of answers that are samples of their own: inspect, saved questions, the report; and older drafts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curate import make
from curate.samples import answer_id
from curate.store import Store
from tests.support.chats import DROPS_REASONING, conversation, write_rows
from tests.support.reports import page_content
from tests.support.training import interrupted_at, rows, weights

ROWS = [conversation(n, 1 + n % 3) for n in range(12)]

Command = Callable[..., Any]


@pytest.fixture
def options(curate: Command, tiny: str, tmp_path: Path) -> list[str]:
    """A pool in the store of the command line, and the options that decide its tokens."""
    (tmp_path / "template.jinja").write_text(DROPS_REASONING, encoding="utf-8")
    assert curate("ingest", "--name", "pool", "--data", write_rows(tmp_path / "chats.jsonl", ROWS)).code == 0
    return ["--pool", "pool", "--model", tiny, "--chat-template", "template.jinja", "--max-length", "128"]


def train(curate: Command, options: list[str], name: str = "run", *more: str) -> None:
    small = ["--candidates", "8", "--keep", "4", "--max-steps", "4", "--save-steps", "1"]
    assert curate("train", "--name", name, *options, *small, *more).code == 0


def test_inspect_says_how_conversations_are_read_and_shows_each_answer(curate: Command, options: list[str]) -> None:
    whole = Store("store").query("SELECT sample_id FROM samples WHERE position = 1").to_pylist()[0]["sample_id"]
    out = curate("inspect", *options, "--sample-id", whole).out
    assert f"answer 1 of 2, in message 1 of conversation {whole}" in out
    assert f"answer 2 of 2, in message 3 of conversation {whole}" in out
    assert "<|im_start|>assistant\n⟦<think>\n1 plus 0\n</think>\n\n1<|im_end|>" in out
    assert "<|im_start|>assistant\n1<|im_end|>\n<|im_start|>user\nAdd 1 and 1." in out
    assert "8 split into answers" in out and "4 whole" in out
    assert re.search(r"answers that are samples +20\b", out)
    answer = answer_id(whole, 3)
    assert curate("inspect", *options, "--sample-id", answer).out.count("\nids ") == 1
    refused = curate("inspect", *options, "--turns", "whole").out
    assert "split into answers" not in refused and "assistant tokens cannot be identified" in refused


def test_a_drawn_conversation_shows_only_its_first_answers(curate: Command, options: list[str], tmp_path: Path) -> None:
    data = write_rows(tmp_path / "long.jsonl", [conversation(1, 9)])
    curate("ingest", "--name", "long", "--data", data)
    out = curate("inspect", *options, "--pool", "long", "--samples", "1").out
    assert "answer 3 of 9" in out and "answer 4 of 9" not in out


def test_saved_questions_show_the_answer_that_was_kept(curate: Command, options: list[str]) -> None:
    train(curate, options)
    store = Store("store")
    questions = Path(__file__).parents[3] / "store" / "queries"
    for name in ("most_kept", "never_kept"):
        sql = (questions / f"{name}.sql").read_text(encoding="utf-8")
        found = store.query(sql, {"run": "run"}).to_pylist()
        for row in found:
            at = store.query("SELECT position FROM origins WHERE sample_id = $id", {"id": row["sample_id"]})
            messages = ROWS[at["position"][0].as_py()]["messages"]
            assert row["answer"] == messages[-1 if row["turn"] is None else row["turn"]]["content"]
        assert found or name == "never_kept"
    compared = store.query((questions / "compare_runs.sql").read_text(encoding="utf-8"), {"runs": "run"}).to_pylist()
    distinct = rows(store, "SELECT count(*) n, count(DISTINCT sample_id) d FROM ledger WHERE kept")[0]
    assert compared[0]["copies"] == round(1 - distinct["d"] / distinct["n"], 3)


def test_the_report_has_a_sample_for_each_answer_with_its_prompt(curate: Command, options: list[str]) -> None:
    train(curate, options)
    assert curate("embed", *options, "--name", "features").code == 0
    assert curate("cluster", "--features", "features", "--k", "2", "--sample", "100", "--name", "clusters").code == 0
    data = page_content(Store("store"), "run")
    shown = data["samples"]
    assert shown["total"] == shown["shown"] == 24
    pairs = list(zip(shown["position"], shown["prompt"], shown["answer"], strict=True))
    for row, chat in enumerate(ROWS):
        asked = [message["content"] for message in chat["messages"][::2]]
        mine = [(prompt, answer) for position, prompt, answer in pairs if position == row]
        assert [prompt.rpartition("user: ")[2] for prompt, _ in mine] == asked
        assert all(str(row + turn) in answer for turn, (_, answer) in enumerate(mine))
    lengths = rows(Store("store"), "SELECT sample_id, tokens FROM features")
    assert dict(zip(shown["id"], shown["tokens"], strict=True)) == {row["sample_id"]: row["tokens"] for row in lengths}
    clusters = {row["sample_id"]: row["cluster"] for row in rows(Store("store"), "FROM clusters")}
    labels = shown["labels"]["cluster"]
    for sample_id, code in zip(shown["id"], labels["codes"], strict=True):
        assert labels["values"][code].partition(" · ")[0] == str(clusters[sample_id])
    offered = {group["by"]: sum(group["offered"][0]) for group in data["groups"]}
    assert all(total == pytest.approx(1) for total in offered.values())


def test_a_draft_from_before_the_option_is_resumed_as_it_was_begun(
    curate: Command, options: list[str], tmp_path: Path
) -> None:
    """An older curate recorded no `turns`, and trained on whole conversations; it rejected the others."""
    old: dict[str, Any] = {"name": "old", "pool": "pool", "model": options[3], "chat_template": "template.jinja"}
    old |= {"max_length": 128, "turns": "whole", "candidates": 4, "keep": 2, "max_steps": 4, "save_steps": 1}
    with interrupted_at(3):
        make(Store("store"), "train", **old)
    draft = next(Path("store/artifacts/train").glob("*/draft.json"))
    description = json.loads(draft.read_text(encoding="utf-8"))
    del description["config"]["turns"]
    draft.write_text(json.dumps(description), encoding="utf-8")
    resumed = curate("resume", "old", "--chat-template", "template.jinja")
    assert resumed.code == 0, resumed.err
    store = Store("store")
    run = store.get("old")
    assert run.path == draft.parent and rows(store, "SELECT count(*) n FROM turn_samples") == [{"n": 0}]
    shutil.rmtree(tmp_path / "other", ignore_errors=True)
    other = Store(tmp_path / "other")
    make(other, "ingest", name="pool", data=[str(tmp_path / "chats.jsonl")])
    whole = make(other, "train", **old)
    assert whole.fingerprint == run.fingerprint
    assert all((value == weights(whole)[name]).all() for name, value in weights(run).items())
