"""A checkpoint that is damaged, or made to harm, ends the resumed run with one sentence, and nothing of it runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from curate.errors import ModelError, TrainingError
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_model
from curate.runtime.checksums import CHECKPOINT_MARKER
from curate.stages import make
from curate.store import Store
from curate.training.checkpoint_files import checkpoints, newest, read_state
from curate.training.gradients.features import mean_rates, state_of
from tests.support.training import interrupted_at

OPTIONS = {"candidates": 8, "keep": 4, "max_steps": 4, "max_length": 64, "save_steps": 2, "selector": "uds"}
Break = Callable[[Path, Path], Any]


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.place),)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, tiny: str, pool_file: Path) -> Path:
    """A store with a run that was interrupted in step 4, after the checkpoint of step 2."""
    store = Store(tmp_path_factory.mktemp("interrupted") / "store")
    make(store, "ingest", name="pool", data=[str(pool_file)])
    with interrupted_at(4):
        make(store, "train", name="run", pool="pool", model=tiny, **OPTIONS)
    return store.root


@pytest.fixture
def checkpoint(interrupted: Path, tmp_path: Path) -> Path:
    shutil.copytree(interrupted, tmp_path / "store")
    (found,) = (tmp_path / "store").rglob("checkpoint-2")
    return found


def pickled(name: str) -> Break:
    return lambda folder, place: torch.save(Payload(place), folder / name)


def written(name: str, content: Any) -> Break:
    text = content if isinstance(content, str) else json.dumps(content)
    return lambda folder, place: (folder / name).write_text(text)


def missing(name: str) -> Break:
    return lambda folder, place: (folder / name).unlink()


def torch_file(name: str, change: Callable[[Any], Any]) -> Break:
    """Change what a file of torch holds, as whoever sends a checkpoint can."""

    def act(folder: Path, place: Path) -> None:
        content = read_state(folder / name)
        torch.save(change(content) or content, folder / name)

    return act


def moments(value: Any) -> Break:
    return torch_file("optimizer.pt", lambda c: [each.update(exp_avg=value) for each in c["state"].values()] and c)


def setting(name: str, value: Any) -> Break:
    return torch_file("optimizer.pt", lambda c: c["param_groups"][0].update({name: value}))


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Break:
    def act(folder: Path, place: Path) -> None:
        (file,) = folder.glob("*model.safetensors")
        content = load_file(file)
        change(content)
        save_file(content, file, metadata={"format": "pt"})

    return act


def of_another_shape(content: dict[str, torch.Tensor]) -> None:
    name = sorted(content)[0]
    content[name] = torch.zeros(3, 5)


UNFIT: dict[str, tuple[Break, str]] = {
    "moments of another shape": (moments(torch.zeros(1)), "state exp_avg has the shape 1, not"),
    "moments of integers": (moments(torch.zeros(3, 3, dtype=torch.int8)), "exp_avg has the shape 3×3|no tensor of"),
    "moments a text": (moments("x"), "state exp_avg is no tensor"),
    "no second moments": (
        torch_file("optimizer.pt", lambda c: [each.pop("exp_avg_sq") for each in c["state"].values()] and c),
        "a parameter has no exp_avg_sq",
    ),
    "no groups": (torch_file("optimizer.pt", lambda c: {**c, "param_groups": []}), "does not fit this run"),
    "a group less": (torch_file("optimizer.pt", lambda c: c["param_groups"].pop() and c), "does not fit this run"),
    "no state": (torch_file("optimizer.pt", lambda c: {"x": 1}), "does not fit this run"),
    "a list": (torch_file("optimizer.pt", lambda c: [1]), "does not fit this run"),
    "up instead of down": (setting("maximize", True), "maximize of the optimizer is not False"),
    "other betas": (setting("betas", (0.5, 0.5)), "betas of the optimizer"),
    "a rate of text": (setting("lr", "x"), "does not fit this run"),
    "other rates": (torch_file("scheduler.pt", lambda c: c.update(base_lrs=[9.0])), "other learning rates"),
    "a schedule of text": (torch_file("scheduler.pt", lambda c: c.update(last_epoch="x")), "other learning rates"),
    "an odd generator": (torch_file("rng_state.pth", lambda c: {"python": 1}), "rng_state.pth does not fit"),
    "a tensor less": (tensors(lambda c: c.pop(sorted(c)[0])), "model.safetensors does not fit .*it lacks 1 tensors"),
    "a tensor more": (
        tensors(lambda c: c.update(x=torch.ones(1))),
        "does not fit .*it also has 1 tensors, such as 'x'",
    ),
    "a tensor of another shape": (tensors(of_another_shape), "model.safetensors does not fit this run"),
    "weights cut off": (
        lambda folder, place: [os.truncate(path, 400) for path in folder.glob("*model.safetensors")],
        "model.safetensors does not fit this run",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_checkpoint_that_does_not_fit_the_run_is_one_sentence(
    checkpoint: Path, tiny: str, tmp_path: Path, name: str
) -> None:
    act, message = UNFIT[name]
    act(checkpoint, tmp_path)
    (checkpoint / CHECKPOINT_MARKER).write_text("{}")
    with pytest.raises(TrainingError, match=message) as caught:
        make(Store(tmp_path / "store"), "train", name="run", pool="pool", model=tiny, **OPTIONS)
    text = str(caught.value)
    assert str(checkpoint) in text and "Delete the folder" in text and text.isprintable() and "Error" not in text


BROKEN: dict[str, tuple[Break, str]] = {
    "optimizer a pickle": (pickled("optimizer.pt"), "optimizer.pt is not read: it holds other objects"),
    "scheduler a pickle": (pickled("scheduler.pt"), "scheduler.pt is not read: it holds other objects"),
    "generator a pickle": (pickled("rng_state.pth"), "rng_state.pth is not read: it holds other objects"),
    "scaler a pickle": (pickled("scaler.pt"), "scaler.pt is not read: it holds other objects"),
    "optimizer a text": (written("optimizer.pt", "no tensors"), "optimizer.pt is not read"),
    "optimizer missing": (missing("optimizer.pt"), "optimizer.pt is missing"),
    "scheduler missing": (missing("scheduler.pt"), "scheduler.pt is missing"),
    "state missing": (missing("trainer_state.json"), "trainer_state.json is missing"),
    "state a text": (written("trainer_state.json", "no"), "does not hold the state of a Trainer"),
    "state odd": (written("trainer_state.json", {"nobody": 1}), "does not hold the state of a Trainer"),
    "state of another step": (written("trainer_state.json", {"global_step": 9}), "is of step 9 and not of step 2"),
    "counters odd": (written("tally-0.json", {"tally": {"nobody": 1}}), r"tally-0\.json cannot be read"),
    "counters of nobody": (written("tally-x.json", {}), r"tally-x\.json cannot be read"),
    "selector a text": (written("selector-0.safetensors", "no"), "selector-0.safetensors cannot be read"),
    "marker deep": (written(CHECKPOINT_MARKER, "[" * 20_000), "is not valid JSON"),
    "marker odd": (written(CHECKPOINT_MARKER, {"files": {"optimizer.pt": 3}}), "is not valid JSON"),
    "marker list": (written(CHECKPOINT_MARKER, {"files": [1]}), "is not valid JSON"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_checkpoint_is_one_sentence(checkpoint: Path, tiny: str, tmp_path: Path, name: str) -> None:
    act, message = BROKEN[name]
    (checkpoint / CHECKPOINT_MARKER).write_text("{}")  # as of somebody who knows that there are checksums
    act(checkpoint, tmp_path / "pwned")
    with pytest.raises(TrainingError, match=message) as caught:
        make(Store(tmp_path / "store"), "train", name="run", pool="pool", model=tiny, **OPTIONS)
    text = str(caught.value)
    assert "weights_only" not in text and "add_safe_globals" not in text, "torch's advice how to allow it"
    assert str(checkpoint) in text and "Delete the folder" in text and text.isprintable()
    assert not (tmp_path / "pwned").exists()


def test_a_sound_checkpoint_is_resumed(checkpoint: Path, tiny: str, tmp_path: Path) -> None:
    assert newest(checkpoint.parent) == checkpoint
    made = make(Store(tmp_path / "store"), "train", name="run", pool="pool", model=tiny, **OPTIONS)
    assert made.name == "run"


def test_a_link_in_place_of_checkpoints_is_not_followed(tmp_path: Path) -> None:
    others = tmp_path / "others" / "checkpoint-500"
    others.mkdir(parents=True)
    (tmp_path / "checkpoints").symlink_to(tmp_path / "others")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "checkpoint-7").symlink_to(others)
    for folder in ("checkpoints", "mine"):
        with pytest.raises(TrainingError, match="is a link"):
            newest(tmp_path / folder)
    assert others.exists()


def test_other_files_beside_checkpoints_do_not_count(tmp_path: Path) -> None:
    for name in ("checkpoint-3", "checkpoint-x", "checkpoint-", "checkpoint-12", "checkpoint--1", "checkpoint-5.bak"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-3", "checkpoint-12"]


# The optimizer of a warm-up run


@pytest.mark.parametrize(
    "state",
    [
        None,
        [],
        {},
        {"state": 3},
        {"state": {}, "param_groups": 7},
        {"state": {0: {}}, "param_groups": []},
        {"state": {"x": torch.ones(2)}, "param_groups": [{}]},
        {"state": {0: {"exp_avg": 1}}, "param_groups": [{"params": [0], "param_names": ["x"]}]},
    ],
    ids=str,
)
def test_an_odd_optimizer_is_one_sentence(tiny: str, tmp_path: Path, state: Any) -> None:
    torch.save(state, tmp_path / "optimizer.pt")
    with pytest.raises(ModelError, match=r"optimizer.* state"):
        state_of(tmp_path, load_model(ModelOptions(tiny)))


@pytest.mark.parametrize("content", ["no", "[]", "{}", '{"global_step": "x"}', "[" * 20_000])
def test_an_odd_state_of_a_warm_up_run_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "trainer_state.json").write_text(content)
    with pytest.raises(ModelError, match="does not hold the state of a Trainer"):
        mean_rates([tmp_path])
