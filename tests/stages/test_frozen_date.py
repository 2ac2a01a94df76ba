"""One day for each artifact whose chat template reads the clock; a chat template counts by its content."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from curate import Artifact, make
from curate.errors import ConfigError
from curate.lm.templates import clock
from curate.stages.consent import Consent
from curate.store import Store
from tests.support.training import interrupted_at, rows, weights

DATED = (
    "It is {{ strftime_now('%d %B %Y') }}.\n{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
UNDATED = DATED.replace("{{ strftime_now('%d %B %Y') }}", "late")
SMALL = {"selector": "random", "candidates": 4, "keep": 2, "max_steps": 4, "save_steps": 1, "max_length": 100}


@pytest.fixture
def pool(store: Store, pool_file: Path) -> Artifact:
    return make(store, "ingest", name="pool", data=[str(pool_file)])


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that sets the day of the clock."""

    def set_day(day: str) -> None:
        monkeypatch.setattr(clock, "today", lambda: day)

    set_day("2030-01-02")
    return set_day


@pytest.fixture
def dated(tiny: str, tmp_path: Path) -> str:
    """Return the folder of a model whose own template reads the clock."""
    return with_template(tiny, tmp_path / "dated", DATED)


def with_template(model: str, folder: Path, template: str) -> str:
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


def embed(store: Store, model: str, **values: Any) -> Artifact:
    return make(store, "embed", pool="pool", model=model, signals=("loss",), max_length=100, **values)


def train(store: Store, model: str, name: str = "run", **values: Any) -> Artifact:
    return make(store, "train", name=name, pool="pool", model=model, **{**SMALL, **values})


def test_a_run_killed_on_one_day_and_resumed_on_the_next_has_the_same_weights(
    store: Store, pool: Artifact, pool_file: Path, dated: str, on: Callable[[str], None], tmp_path: Path
) -> None:
    from curate.api.commands.resuming import unfinished
    from curate.stages import run_stage

    whole = train(store, dated)
    again, resumed = Store(tmp_path / "again"), Store(tmp_path / "resumed")
    for other in (again, resumed):
        make(other, "ingest", name="pool", data=[str(pool_file)])
        on("2030-01-02")
        with interrupted_at(3):
            train(other, dated)
        on("2030-01-03")
    same_command, continued = train(again, dated), run_stage(resumed, *unfinished(resumed, "run", Consent()))
    for run in (same_command, continued):
        assert run.fingerprint == whole.fingerprint and run.config["date"] == run.inputs["date"] == "2030-01-02"
        assert all(torch.equal(weight, weights(run)[name]) for name, weight in weights(whole).items())
    tokens = "SELECT sample_id, tokens FROM ledger ORDER BY step, slot"
    assert rows(store, tokens) == rows(again, tokens) == rows(resumed, tokens)
    other_day = train(store, dated, "other")
    assert other_day.inputs["date"] == "2030-01-03"
    assert any(not torch.equal(weight, weights(other_day)[name]) for name, weight in weights(whole).items())


def test_another_day_makes_another_artifact_only_if_the_template_reads_the_clock(
    store: Store, pool: Artifact, tiny: str, dated: str, on: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "curate")
    first, plain = embed(store, dated), embed(store, tiny)
    assert "writes the date 2030-01-02; --date gives it another" in caplog.text and "date" not in plain.inputs
    on("2030-01-03")
    assert embed(store, tiny).fingerprint == plain.fingerprint
    second = embed(store, dated)
    assert second.fingerprint != first.fingerprint and second.config["date"] == "2030-01-03"
    assert (second.path / "reading.txt").read_text() != (first.path / "reading.txt").read_text()
    assert embed(store, dated, date="2030-01-02").fingerprint == first.fingerprint
    caplog.clear()
    assert embed(store, tiny, date="2030-01-02").fingerprint == plain.fingerprint
    assert "--date has no effect" in caplog.text


def test_a_model_of_the_store_is_measured_on_the_day_that_it_was_trained_on(
    store: Store, pool: Artifact, dated: str, on: Callable[[str], None]
) -> None:
    train(store, dated)
    on("2030-02-03")
    evaluated = make(store, "evaluate", pool="pool", model="run", max_length=100, limit=4, max_new_tokens=4)
    assert evaluated.config["date"] == evaluated.inputs["date"] == "2030-01-02"
    assert embed(store, "run").inputs["date"] == "2030-01-02"
    assert embed(store, "run", date="2030-02-03", name="later").inputs["date"] == "2030-02-03"


def test_a_run_has_the_day_of_its_reference(
    store: Store, pool: Artifact, dated: str, on: Callable[[str], None]
) -> None:
    embed(store, dated, name="reference")
    on("2030-01-03")
    rho = {"selector": "rho", "reference": "reference"}
    assert train(store, dated, **rho).inputs["date"] == "2030-01-02"
    with pytest.raises(ConfigError, match="another tokenizer, chat template, --date"):
        train(store, dated, "later", date="2030-01-03", **rho)


def test_all_runs_of_a_comparison_have_one_day(
    store: Store, pool: Artifact, dated: str, on: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from curate.stages.compare import stage

    def compare() -> Artifact:
        shared = {key: value for key, value in SMALL.items() if key != "selector"}
        values = {"selectors": ("max_loss",), "controls": (), "seeds": (0,), "eval_steps": 2, "train": shared}
        return make(store, "compare", name="c", pool="pool", eval_pool="pool", model=dated, **values)

    made = stage.make_all

    def killed_after_the_first(store: Store, tasks: Any, jobs: int, folder: Path) -> Any:
        made(store, dict(list(tasks.items())[:1]), jobs, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "make_all", killed_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        compare()
    monkeypatch.setattr(stage, "make_all", made)
    on("2030-01-03")
    comparison = compare()
    runs = [artifact for artifact in store.artifacts() if artifact.stage == "train"]
    assert len(runs) == 2 and {run.inputs["date"] for run in runs} == {comparison.inputs["date"]} == {"2030-01-02"}


def test_a_chat_template_counts_by_its_content(store: Store, pool: Artifact, tiny: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one.jinja", tmp_path / "two.jinja"
    one.write_text(UNDATED)
    two.write_text(UNDATED)
    first = embed(store, tiny, chat_template=str(one))
    assert embed(store, tiny, chat_template=str(two)).fingerprint == first.fingerprint
    one.write_text(UNDATED.replace("late", "early"))
    changed = embed(store, tiny, chat_template=str(one))
    assert changed.fingerprint != first.fingerprint
    assert (changed.path / "reading.txt").read_text() != (first.path / "reading.txt").read_text()


def test_a_draft_whose_chat_template_has_changed_is_not_resumed(
    store: Store, pool: Artifact, tiny: str, tmp_path: Path, curate: Callable[..., Any]
) -> None:
    (tmp_path / "one.jinja").write_text(UNDATED)
    with interrupted_at(3):
        train(store, tiny, chat_template=str(tmp_path / "one.jinja"))
    (tmp_path / "one.jinja").write_text(UNDATED.replace("late", "early"))
    flags = ("--store", str(store.root), "--chat-template", str(tmp_path / "one.jinja"))
    result = curate("resume", "run", *flags)
    assert result.code == 1 and "'run' cannot be resumed: chat_template changed since it was started" in result.err


def test_a_template_that_comes_along_is_no_file(store: Store, pool: Artifact, tiny: str, tmp_path: Path) -> None:
    from curate.api.commands.status import stale_inputs

    made = embed(store, tiny, chat_template="chatml")
    assert made.config["chat_template"] == "chatml" and made.inputs["chat_template"].startswith("b2:")
    assert list(stale_inputs(store, made)) == []


@pytest.mark.parametrize("given", ["2030-02-30", "20300102", "2030-W01-2", "tomorrow", "2030-1-2", "", "30-01-02"])
def test_a_date_that_is_no_date_is_one_sentence(curate: Callable[..., Any], given: str) -> None:
    for command in (("embed", "--pool", "p", "--model", "m"), ("inspect", "--pool", "p", "--model", "m")):
        result = curate(*command, f"--date={given}")
        assert result.code in (1, 2) and "must be a day of the calendar as YYYY-MM-DD" in result.err
        assert "Traceback" not in result.err


def test_a_date_in_a_file_needs_no_quotes(curate: Callable[..., Any], tmp_path: Path) -> None:
    from curate.config import load
    from curate.stages.embed.config import EmbedConfig

    (tmp_path / "c.yaml").write_text("pool: p\nmodel: m\ndate: 2030-01-02\n")
    assert load(EmbedConfig, file=tmp_path / "c.yaml").date == "2030-01-02"
    (tmp_path / "c.yaml").write_text("pool: p\nmodel: m\ndate: 2030-02-30\n")
    result = curate("embed", "--config", "c.yaml")
    assert result.code in (1, 2) and result.err.startswith("Error: ") and "Traceback" not in result.err


def test_inspect_tells_the_day(
    store: Store, pool: Artifact, dated: str, curate: Callable[..., Any], on: Callable[[str], None]
) -> None:
    flags = ("--store", str(store.root), "--pool", "pool", "--model", dated)
    assert "2030-01-02, which the chat template writes" in curate("inspect", *flags).out
    shown = curate("inspect", *flags, "--date", "2031-05-06").out
    assert "It is 06 May 2031." in shown and "2031-05-06, which the chat template writes" in shown


def test_the_harness_renders_on_the_day_of_the_tokenizer(dated: str) -> None:
    from curate.lm.evaluation.harness import _limit_template
    from curate.lm.model.config_checks import ModelOptions
    from curate.lm.model.load import load_tokenizer

    class Wrapped:
        def __init__(self, tokenizer: Any) -> None:
            self.tokenizer = tokenizer

        def apply_chat_template(self, chat_history: list[dict[str, Any]], add_generation_prompt: bool = True) -> Any:
            return self.tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt
            )

    tokenizer = load_tokenizer(ModelOptions(dated, date="2031-05-06"))
    wrapped = Wrapped(tokenizer)
    _limit_template(wrapped, tokenizer)
    assert wrapped.apply_chat_template([{"role": "user", "content": "q"}]).startswith("It is 06 May 2031.")


def test_the_model_keeps_the_live_template(store: Store, pool: Artifact, dated: str, on: Callable[[str], None]) -> None:
    run = train(store, dated)
    saved = (run.files / "chat_template.jinja").read_text()
    assert saved == DATED
    config = json.loads((run.files / "tokenizer_config.json").read_text())
    assert "2030-01-02" not in json.dumps(config)
