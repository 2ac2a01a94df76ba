"""Tests of `curate inspect`: it shows the tokens that the loss trains on, and counts rejected samples."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curate.api.commands.inspection import percentiles, printable
from curate.runtime.terminal import BOLD_UNDERLINED
from curate.stages.pools import pool_samples
from curate.store import Store

ROWS = [
    {"prompt": "Say one.", "completion": "one"},
    {"prompt": "Say two. " * 30, "completion": "two"},
    {"prompt": "Say three.", "completion": "three " * 40},
    {"text": "Plain text.", "prompt": None, "completion": None},
]


@pytest.fixture
def pool(curate: Callable[..., Any], tmp_path: Path) -> dict[int, str]:
    """Make a pool of two sources and return its sample ids by position."""
    for name, rows in {"a": ROWS[:3], "b": ROWS[3:]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert curate("ingest", "--name", "pool", "--data", "a.jsonl", "--data", "b.jsonl").code == 0
    samples = pool_samples(Store(tmp_path / "store").get("pool"))
    return {position: sample.sample_id for position, sample in samples}


def test_exactly_the_assistants_tokens_are_marked(curate: Callable[..., Any], tiny: str, pool: dict[int, str]) -> None:
    shown = curate("inspect", "--pool", "pool", "--model", tiny, "--sample-id", pool[0]).out
    text = shown.split("\n\n")[2]
    assert re.findall("⟦(.*?)⟧", text, re.DOTALL)[0].strip().startswith("one")
    assert "Say one." in text.split("⟦")[0] and text.count("⟦") == 1
    everything = curate("inspect", "--pool", "pool", "--model", tiny, "--sample-id", pool[0], "--loss-on", "all").out
    assert "Say one." in everything.split("\n\n")[2].split("⟦")[1]


def test_the_ids_shown_are_those_trained_on(curate: Callable[..., Any], tiny: str, pool: dict[int, str]) -> None:
    from transformers import AutoTokenizer

    shown = curate("inspect", "--pool", "pool", "--model", tiny, "--sample-id", pool[2], "--max-length", "20").out
    ids = [int(word) for word in re.search(r"^ids (.*)$", shown, re.MULTILINE)[1].split()]
    assert len(ids) == 20 and "cut to 20" in shown and "[cut here]" in shown
    assert "Say three." in AutoTokenizer.from_pretrained(tiny).decode(ids)


def test_the_pool_is_counted_before_and_after_the_cut(
    curate: Callable[..., Any], tiny: str, pool: dict[int, str]
) -> None:
    out = curate("inspect", "--pool", "pool", "--model", tiny, "--max-length", "40").out
    fact = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in out.splitlines()}
    assert (fact["samples"], fact["cut"], fact["rejected"]) == ("4", "2", "1")
    assert "generation tags" in fact["trained on"]
    assert re.search(rf"no target tokens left after truncation +1, such as {pool[1]}", out)
    assert re.search(r"^ +a +3 .*\n +b +1 ", out, re.MULTILINE)
    before = re.search(r"before the cut +(\d+) +\d+ +\d+ +\d+ +(\d+)", out)
    assert int(before[1]) <= 40 < int(before[2])


def test_without_generation_tags_the_method_is_prefixes_and_rejections_are_explained(
    curate: Callable[..., Any], tiny: str, tmp_path: Path, pool: dict[int, str]
) -> None:
    out = curate("inspect", "--pool", "pool", "--model", tiny, "--chat-template", "chatml").out
    assert "generation tags" in out
    plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    (tmp_path / "plain.jinja").write_text(plain)
    assert "by prefixes" in curate("inspect", "--pool", "pool", "--model", tiny, "--chat-template", "plain.jinja").out
    (tmp_path / "odd.jinja").write_text(
        plain.replace("{{ m.content }}", "{% if loop.index0 %}{{ m.content }}{% endif %}")
    )
    out = curate(
        "inspect", "--pool", "pool", "--model", tiny, "--chat-template", "odd.jinja", "--sample-id", pool[0]
    ).out
    assert "the chat template leaves out the text of turn 1" in out
    assert re.search("the chat template leaves out the text +3, such as ", out)


def test_the_choice_is_the_seeds_and_repeats(curate: Callable[..., Any], tiny: str, pool: dict[int, str]) -> None:
    def chosen(*options: str) -> list[str]:
        out = curate("inspect", "--pool", "pool", "--model", tiny, *options).out
        return re.findall(r"^Sample (\w+)", out, re.MULTILINE)

    assert chosen() == chosen() and len(chosen()) == 3
    assert sorted(chosen("--samples", "9")) == sorted(pool.values()) and chosen("--samples", "0") == []
    assert len({tuple(chosen("--seed", str(seed), "--samples", "1")) for seed in range(9)}) > 1


def test_the_tokens_that_a_run_trained_on_in_a_step_are_marked(
    curate: Callable[..., Any], tiny: str, tmp_path: Path
) -> None:
    rows = [{"prompt": f"Count {n}.", "completion": " ".join(str(k * n) for k in range(1, 9))} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert curate("ingest", "--name", "counts", "--data", "rows.jsonl").code == 0
    options = ["--pool", "counts", "--model", tiny, "--max-length", "64"]
    shape = ["--selector", "q_tuning", "--candidates", "6", "--keep", "4", "--max-steps", "2", "--name", "q"]
    assert curate("train", *options, *shape, "--set", "selector_args.tokens=0.5").code == 0
    store = Store(tmp_path / "store")
    sql = "SELECT sample_id, target_tokens, parts['trained_tokens'] AS n FROM ledger WHERE kept AND step = 1"
    ledger = {row["sample_id"]: row for row in store.query(sql).to_pylist()}
    assert len(ledger) == 4 and any(row["n"] < row["target_tokens"] for row in ledger.values())
    out = curate("inspect", *options[:4], "--run", "q", "--step", "1", "--samples", "9").out
    assert "Tokens that run q trained on in step 1 are shown" in out and "of the 4 kept samples" not in out
    some = curate("inspect", *options, "--run", "q", "--step", "1", "--samples", "3").out
    assert "3 of the 4 kept samples are shown." in some and some.count("Sample ") == 3
    parts = re.split(r"^Sample (\w+)", out, flags=re.MULTILINE)[1:]
    shown = dict(zip(parts[::2], parts[1::2], strict=True))
    assert shown.keys() == ledger.keys()
    for sample_id, row in ledger.items():
        trained, left_out = int(row["n"]), row["target_tokens"] - int(row["n"])
        assert f"tokens, {trained} trained on" in shown[sample_id]
        said = f"; {left_out} of {row['target_tokens']} target tokens left out in step 1"
        assert (said in shown[sample_id]) == (left_out > 0)
    for more, message in (
        (["--run", "q", "--step", "3"], "has 2 steps in its ledger, so no step 3"),
        (["--run", "q", "--max-length", "20"], "target tokens in the run and has"),
        (["--step", "3"], "give --run NAME, too"),
        (["--run", "q", "--sample-id", "nothing"], "did not keep sample nothing in step 2"),
    ):
        outcome = curate("inspect", *options, *more)
        assert outcome.code == 1 and message in outcome.err and outcome.out == ""


def test_an_unknown_sample_is_an_error_with_the_way_out(
    curate: Callable[..., Any], tiny: str, pool: dict[int, str]
) -> None:
    outcome = curate("inspect", "--pool", "pool", "--model", tiny, "--sample-id", "nothing")
    assert outcome.code == 1 and "has no sample nothing. Find one with curate query" in outcome.err
    assert outcome.out == ""


def test_on_a_terminal_the_marks_are_bold(tiny: str, tmp_path: Path, pool: dict[int, str], monkeypatch: Any) -> None:
    from curate.cli.inspect import InspectConfig, inspect

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    inspect(Store(tmp_path / "store"), InspectConfig(pool="pool", model=tiny, sample_id=pool[0]))
    assert f"{BOLD_UNDERLINED}one" in screen.getvalue() and "⟦" not in screen.getvalue()


def test_text_of_a_pool_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2J\tb\nç") == "a\\x1b[2J\tb\nç"


def test_a_percentile_is_the_length_of_some_sample() -> None:
    assert percentiles([5, 1, 100]) == {"p50": 5, "p90": 100, "p95": 100, "p99": 100, "max": 100}
