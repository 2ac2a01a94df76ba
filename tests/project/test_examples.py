"""The examples run as they are shown, on a tiny model, and the store knows what they chose."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from curate import make
from curate.store import Store
from tests.support.paths import ROOT

EXAMPLES = ROOT / "examples"
SCRIPTS = {path.name: path for path in sorted(EXAMPLES.glob("*.py"))}


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> str:
    """48 short conversations."""
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    asked = [(f"Add {n} and {n * 7 % 13}.", f"{n + n * 7 % 13} " * (1 + n % 5)) for n in range(48)]
    rows = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in asked
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`run("trl_sft.py", "--steps=3")`: an example as from the command line, in an empty folder and in this process."""
    monkeypatch.chdir(tmp_path)

    def call(name: str, *options: str) -> None:
        monkeypatch.setattr(sys, "argv", [name, *options])
        runpy.run_path(str(SCRIPTS[name]), run_name="__main__")

    return call


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_example_says_what_it_is_and_how_to_run_it(name: str) -> None:
    text = SCRIPTS[name].read_text(encoding="utf-8")
    assert f"python examples/{name} --model" in text.split('"""')[1]
    assert len(text.splitlines()) <= 100


@pytest.mark.parametrize(
    ("name", "label", "options"),
    [
        ("trl_sft.py", "trl", ["--selector=uds", "--steps=3"]),
        ("transformers_trainer.py", "trainer", ["--selector=max_loss", "--steps=3"]),
        ("pytorch_loop.py", "loop", ["--selector=uds"]),
        ("fabric_loop.py", "fabric", ["--selector=max_loss"]),
    ],
)
def test_an_example_trains_and_its_choices_are_in_the_store(
    name: str, label: str, options: list[str], tiny: str, chats: str, run: Callable[..., None]
) -> None:
    run(name, f"--model={tiny}", f"--data={chats}", "--candidates=16", "--keep=4", *options)
    store = Store("store")
    sql = "SELECT step, count(*) AS candidates, sum(kept::INT)::INT AS kept FROM ledger WHERE run = $run GROUP BY step"
    steps = store.query(f"{sql} ORDER BY step", {"run": label}).to_pylist()
    assert steps == [{"step": step, "candidates": 16, "kept": 4} for step in (1, 2, 3)]
    assert store.get(label).stage == "script" and not store.drafts()


def test_a_run_over_a_pool_answers_saved_questions(tiny: str, chats: str, run: Callable[..., None]) -> None:
    store = Store("store")
    make(store, "ingest", name="chats", data=[f"talk={chats}"])
    options = ["--candidates=16", "--keep=4", "--steps=3", "--selector=max_loss", "--pool=chats"]
    run("trl_sft.py", f"--model={tiny}", f"--data={chats}", *options)
    questions = EXAMPLES.parent / "store/queries"
    (kept,) = store.query((questions / "kept_by_source.sql").read_text(), {"run": "trl"}).to_pylist()
    assert (kept["source"], kept["rows"], kept["candidates"], kept["kept"]) == ("talk", 48, 48, 12)
    most = store.query((questions / "most_kept.sql").read_text(), {"run": "trl"}).to_pylist()
    assert len(most) == 12 and all(row["start"].startswith("Add ") for row in most)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_example_has_help(name: str, run: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run(name, "--help")
    assert not stop.value.code and "--candidates" in capsys.readouterr().out


def test_the_loop_goes_on_from_its_checkpoint(
    tiny: str, chats: str, run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = [f"--model={tiny}", f"--data={chats}", "--candidates=16", "--keep=4", "--epochs=2"]
    run("pytorch_loop.py", *shape, "--store=whole", "--checkpoint=whole.pt")
    save = torch.save

    def stop_after(state: Any, place: str) -> None:
        save(state, place)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", stop_after)
    with pytest.raises(KeyboardInterrupt):
        run("pytorch_loop.py", *shape, "--store=stopped", "--checkpoint=stopped.pt")
    monkeypatch.setattr(torch, "save", save)
    run("pytorch_loop.py", *shape, "--store=stopped", "--checkpoint=stopped.pt")
    sql = "SELECT * FROM ledger ORDER BY ALL"
    found = Store("stopped").query(sql)
    assert found.num_rows == 96 and found.equals(Store("whole").query(sql))


def test_of_several_processes_each_chooses_among_its_own(tiny: str, chats: str, tmp_path: Path) -> None:
    pytest.importorskip("torch.distributed.run", reason="torchrun is not here")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    options = [f"--model={tiny}", f"--data={chats}", "--candidates=16", "--keep=2", "--steps=2", "--save-steps=1"]
    done = subprocess.run(
        [*launcher, str(SCRIPTS["trl_sft.py"]), *options],
        capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    store = Store(tmp_path / "store")
    sql = "SELECT step, rank, count(*) AS candidates, sum(kept::INT)::INT AS kept FROM ledger GROUP BY ALL ORDER BY ALL"
    steps = store.query(sql).to_pylist()
    assert steps == [{"step": s, "rank": r, "candidates": 8, "kept": 2} for s in (1, 2) for r in (0, 1)]
    assert len(store.query("SELECT DISTINCT sample_id FROM ledger")) == 32
    assert store.get("trl").rows == 8 and not store.drafts()
    checkpoint = tmp_path / "output" / "checkpoint-2"
    assert {f"selector-{rank}.safetensors" for rank in (0, 1)} <= {path.name for path in checkpoint.iterdir()}
