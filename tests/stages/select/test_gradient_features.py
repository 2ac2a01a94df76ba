"""LESS's gradient features: equal to a slow loop, kept by content, and made for whatever a run left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curate import make
from curate.config import build
from curate.errors import ConfigError, DataError, ModelError
from curate.numerics.gradients import SignHash, Sketch, TwoSided
from curate.stages.inputs import resolve
from curate.stages.select.candidates import read_candidates
from curate.stages.select.config import SelectConfig
from curate.stages.select.gradient_scores import CheckpointScorer
from curate.stages.select.stage import gradient_oracle
from curate.store import Store
from curate.training.checkpoint_files import whole_checkpoints
from curate.training.gradients.features import GradientFeatures, mean_rates, state_of

WARM = {"selector": "random", "candidates": 8, "keep": 4, "max_steps": 6, "max_length": 64, "logging_steps": 1}
WARM |= {"save_steps": 2, "save_total_limit": 9, "learning_rate": 3e-3, "lora_r": 4}
SUBTASKS = ["sums", "letters", "letters", "sums", "letters"]


@pytest.fixture(scope="module")
def world(tiny: str, pool_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A pool, a target of two subtasks, and a warm-up run with three checkpoints."""
    folder = tmp_path_factory.mktemp("warm")
    store = Store(folder / "store")
    rows = [{"instruction": f"Say {i}{i}.", "output": f"yes {i}", "subtask": s} for i, s in enumerate(SUBTASKS)]
    (folder / "target.jsonl").write_text("\n".join(map(json.dumps, rows)))
    make(store, "ingest", name="pool", data=[str(pool_file)])
    make(store, "ingest", name="target", data=[str(folder / "target.jsonl")])
    make(store, "train", name="warm", pool="pool", model=tiny, **WARM)
    return store


@pytest.fixture
def fresh(world: Store) -> Store:
    """The same with nothing kept."""
    shutil.rmtree(world.root / "cache" / "gradients", ignore_errors=True)
    return world


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many features of the pool each pass has made."""
    counts: list[int] = []
    features = GradientFeatures.features

    def counted(self: GradientFeatures, table: Any, rows: Any, *, target: bool = False) -> torch.Tensor:
        result = features(self, table, rows, target=target)
        if not target:
            counts.append(len(rows))
        return result

    monkeypatch.setattr(GradientFeatures, "features", counted)
    yield counts


def scorer(store: Store, **values: Any) -> tuple[CheckpointScorer, list[str]]:
    shape = {"name": "s", "method": "less", "pool": "pool", "target": "target", "warmup": "warm", "budget": 5}
    config = build(SelectConfig, {**shape, "sketch_dim": 256, **values})
    inputs = resolve(store, config)
    candidates, _ = read_candidates(inputs, {"rewards"}, "embedding")
    found = gradient_oracle(config, inputs, candidates.ids)
    assert isinstance(found, CheckpointScorer)
    return found, list(candidates.ids)


def rewards(store: Store, rows: Any = range(12), **values: Any) -> np.ndarray:
    return scorer(store, **values)[0](np.array(rows))


def slow_vectors(checkpoint: Path, table: Any, rows: list[int], *, eps_mode: str | None) -> torch.Tensor:
    """(n, P) float64: autograd a sample at a time, Adam written out; plain gradients where `eps_mode` is None."""
    from curate.lm.model.config_checks import ModelOptions
    from curate.lm.model.load import load_model

    model = load_model(ModelOptions(str(checkpoint)), trainable=True).eval()
    trained = [p for p in model.parameters() if p.requires_grad]
    saved = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    (b1, b2), eps = saved["param_groups"][0]["betas"], saved["param_groups"][0]["eps"]
    out = []
    for row in rows:
        ids, labels = (torch.tensor(table[row][name])[None] for name in ("input_ids", "labels"))
        grads = torch.autograd.grad(model(input_ids=ids, labels=labels).loss, trained)
        parts = []
        for number, g in enumerate(g.double() for g in grads):
            if eps_mode is None:
                parts.append(g.flatten())
                continue
            state = saved["state"][number]
            tau = int(state["step"]) + 1
            m = b1 * state["exp_avg"].double() + (1 - b1) * g
            v = b2 * state["exp_avg_sq"].double() + (1 - b2) * g**2
            adam = (m / (1 - b1**tau)) / ((v / (1 - b2**tau)).sqrt() + eps)
            parts.append((adam if eps_mode == "adam" else m / (v + 1e-8).sqrt()).flatten())
        out.append(torch.cat(parts))
    return torch.stack(out)


def sketched(vectors: torch.Tensor, checkpoint: Path, hash_: Sketch) -> torch.Tensor:
    from curate.lm.model.config_checks import ModelOptions
    from curate.lm.model.load import load_model

    into, at = torch.zeros(len(vectors), hash_.size), 0
    for name, p in load_model(ModelOptions(str(checkpoint)), trainable=True).named_parameters():
        if p.requires_grad:
            hash_.add(name, vectors[:, at : at + p.numel()].float().unflatten(1, p.shape), into)
            at += p.numel()
    assert at == vectors.shape[1]
    return into.double()


TWO_SIDED = {"projection": "two_sided", "projection_dim": 8}


@pytest.mark.parametrize(
    ("values", "dim"),
    [
        ({}, 256),
        ({"eps_mode": "less"}, 256),
        ({}, 65536),
        (TWO_SIDED, 256),
        (TWO_SIDED | {"direction": "gradient"}, 256),
        ({"direction": "gradient"}, 256),
    ],
)
def test_the_score_is_that_of_a_loop_over_samples_checkpoints_and_subtasks(
    fresh: Store, values: dict[str, Any], dim: int
) -> None:
    found, _ = scorer(fresh, sketch_dim=dim, **values)
    eps_mode = None if "direction" in values else values.get("eps_mode", "adam")
    hash_ = TwoSided(dim, 0, 8) if "projection" in values else SignHash(dim, 0)
    run = whole_checkpoints(fresh.get("warm").path / "checkpoints")
    assert len(run) == 3
    total = torch.zeros(6, 5, dtype=torch.float64)
    pool, target = [found.pool[i] for i in range(6)], found.target
    for checkpoint, weight in zip(run, mean_rates(run), strict=True):
        ours = slow_vectors(checkpoint, pool[0][0], [row for _, row in pool], eps_mode=eps_mode)
        theirs = slow_vectors(checkpoint, target[0][0], [row for _, row in target], eps_mode=None)
        if dim < 1000:
            ours, theirs = sketched(ours, checkpoint, hash_), sketched(theirs, checkpoint, hash_)
        normal = torch.nn.functional.normalize
        total += weight * (normal(ours, dim=1) @ normal(theirs, dim=1).T)
    by_subtask = [total[:, [s == name for s in SUBTASKS]].mean(1) for name in ("letters", "sums")]
    expected = torch.stack(by_subtask).max(0).values.numpy()
    # with the twin's own hash only the rounding to fp16 is left; without, the sketch's error of 1/sqrt(D)
    np.testing.assert_allclose(found(np.arange(6)), expected, atol=2e-4 if dim < 1000 else 4 / dim**0.5)
    assert np.ptp(expected) > 0.02


def test_features_do_not_depend_on_the_batch_the_order_or_the_calls(fresh: Store) -> None:
    by_batch = []
    for size in (1, 3, 16):
        shutil.rmtree(fresh.root / "cache", ignore_errors=True)
        by_batch.append(rewards(fresh, score_batch_size=size))
    for other in by_batch[1:]:
        np.testing.assert_allclose(other, by_batch[0], atol=2e-5)
    shutil.rmtree(fresh.root / "cache")
    found, _ = scorer(fresh)
    order = np.random.default_rng(0).permutation(12)
    pieces = np.concatenate([found(part) for part in np.split(order, [1, 4])])
    np.testing.assert_allclose(pieces, by_batch[2][order], atol=2e-5)


@pytest.mark.parametrize("precision", ["fp16", "int8", "1bit"])
def test_rewards_are_the_same_whether_kept_or_fresh(fresh: Store, made: list[int], precision: str) -> None:
    first = rewards(fresh, feature_precision=precision)
    assert sum(made) == 3 * 12
    assert np.array_equal(rewards(fresh, feature_precision=precision), first)
    assert sum(made) == 3 * 12


def test_a_stopped_pass_computes_only_what_is_missing(
    fresh: Store, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curate.stages.select.gradient_scores.CHUNK", 8)
    whole = rewards(fresh, range(30))
    shutil.rmtree(fresh.root / "cache")
    made.clear()
    counted = GradientFeatures.features

    def stop(self: GradientFeatures, table: Any, rows: Any, *, target: bool = False) -> torch.Tensor:
        if len(made) == 5:
            raise KeyboardInterrupt
        return counted(self, table, rows, target=target)

    with monkeypatch.context() as patch:
        patch.setattr(GradientFeatures, "features", stop)
        with pytest.raises(KeyboardInterrupt):
            rewards(fresh, range(30))
    assert made == [8, 8, 8, 6, 8]
    resumed = rewards(fresh, range(30))
    assert made[5:] == [8, 8, 6, 8, 8, 8, 6]
    assert np.array_equal(resumed, whole)


def test_features_are_kept_by_content(fresh: Store, made: list[int], tmp_path: Path) -> None:
    def news(method: str = "less", **values: Any) -> int:
        made.clear()
        rewards(fresh, range(4), method=method, **values)
        return sum(made)

    assert news() == 12
    for values in ({}, {"score_batch_size": 2}, {"budget": 9}, {"seed": 3}):
        assert news(**values) == 0
    config = fresh.get("pool").config
    text = Path(config["data"][0]).read_text().splitlines()
    (tmp_path / "fewer.jsonl").write_text("\n".join(text[3:1:-1]))
    make(fresh, "ingest", name="fewer", data=[str(tmp_path / "fewer.jsonl")])
    made.clear()
    assert np.isfinite(rewards(fresh, range(2), pool="fewer")).all() and made == []
    others: list[dict[str, Any]] = [{"sketch_seed": 1}, {"sketch_dim": 128}, {"feature_precision": "int8"}]
    others += [{"eps_mode": "less"}, {"projection": "two_sided"}, TWO_SIDED]
    for values in others:
        assert news(**values) == 12, values
    checkpoints = scorer(fresh)[0].checkpoints
    plain = scorer(fresh, direction="gradient")[0].checkpoints
    for update, gradient in zip(checkpoints, plain, strict=True):
        assert update.work.folders[False] != gradient.work.folders[False]
        assert update.work.folders[True] == gradient.work.folders[True]
    assert len({checkpoint.work.folders[False] for checkpoint in checkpoints}) == 3


def alter(world: Store, folder: Path, layout: str) -> Path:
    """A copy of the last checkpoint with its optimizer state in another layout."""
    from curate.lm.model.config_checks import ModelOptions
    from curate.lm.model.load import load_model

    last = whole_checkpoints(world.get("warm").path / "checkpoints")[-1]
    shutil.copytree(last, folder / layout)
    model = load_model(ModelOptions(str(last)), trainable=True)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    state = torch.load(last / "optimizer.pt", weights_only=True)
    group = state["param_groups"][0]
    if layout == "names too":  # and in another order than the model's
        group["param_names"], group["params"] = names[::-1], group["params"][::-1]
    elif layout == "by name":
        state = {"state": {names[i]: entry for i, entry in state["state"].items()}, "param_groups": [group]}
    elif layout == "one group":
        state["param_groups"] = [group]
    elif layout == "too few":
        group["params"] = group["params"][1:]
    elif layout == "stranger":
        state = {"state": {"lm_head.lora_A": state["state"][0]}, "param_groups": [group]}
    elif layout == "empty":
        state["state"] = {}
    torch.save(state, folder / layout / "optimizer.pt")
    return folder / layout


def adam_at(checkpoint: Path, rank: int | None = None) -> Any:
    from curate.lm.model.config_checks import ModelOptions
    from curate.lm.model.load import add_lora, load_model

    options = ModelOptions(str(checkpoint))
    if rank is None:
        return state_of(checkpoint, load_model(options, trainable=True))
    base = json.loads((checkpoint / "adapter_config.json").read_text())["base_model_name_or_path"]
    model = load_model(ModelOptions(base))
    return state_of(checkpoint, add_lora(model, r=rank, alpha=8, dropout=0.0, target_modules="all-linear"))


@pytest.mark.parametrize("layout", ["names too", "by name", "one group"])
def test_adams_state_is_read_in_any_layout(world: Store, tmp_path: Path, layout: str) -> None:
    plain, other = adam_at(alter(world, tmp_path, "as saved")), adam_at(alter(world, tmp_path, layout))
    assert plain.steps == other.steps == 6 and plain.slots.keys() == other.slots.keys()
    assert len(plain.slots) == 2 * 7 * 2
    for name, slot in plain.slots.items():
        for moment in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(slot.state[moment], other.slots[name].state[moment])


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("too few", "has 27 parameters in a group, but the model has 28"),
        ("stranger", "does not train 'lm_head.lora_A'"),
        ("empty", "is empty. Train the warm-up run for some steps"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(world: Store, tmp_path: Path, layout: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        adam_at(alter(world, tmp_path, layout))


def test_a_state_of_another_rank_is_refused(world: Store, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"does not fit the model: '.*lora_A.*' has another shape"):
        adam_at(alter(world, tmp_path, "as saved"), rank=8)


def test_missing_checkpoints_or_optimizer_state_raise_an_error_with_the_command(
    fresh: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    last = alter(fresh, tmp_path, "as saved")
    (last / "optimizer.pt").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("curate.training.checkpoint_files.whole_checkpoints", lambda folder: [last])
        with pytest.raises(ModelError, match=r"no optimizer state \(optimizer.pt\).*curate train"):
            rewards(fresh)
    monkeypatch.setattr("curate.training.checkpoint_files.whole_checkpoints", lambda folder: [])
    with pytest.raises(ConfigError, match=r"'warm' has no checkpoints.*curate train --name warm --save-steps"):
        rewards(fresh)


def test_a_target_with_nothing_to_train_on_is_refused(fresh: Store, tmp_path: Path) -> None:
    (tmp_path / "long.jsonl").write_text(json.dumps({"instruction": "a b c " * 200, "output": "d"}))
    make(fresh, "ingest", name="masked", data=[str(tmp_path / "long.jsonl")])
    with pytest.raises(DataError, match="No sample of 'masked' has anything to train on: raise the warm-up run's"):
        rewards(fresh, target="masked")


def test_blocks_that_do_not_fill_the_sketch_and_a_size_without_projection_are_refused() -> None:
    shape = {"method": "less", "pool": "p", "target": "t", "warmup": "w", "budget": 5}
    with pytest.raises(ConfigError, match="give a multiple of 144, such as 8208"):
        build(SelectConfig, {**shape, "projection": "two_sided", "projection_dim": 12})
    with pytest.raises(ConfigError, match="--projection-dim belongs to --projection two_sided"):
        build(SelectConfig, {**shape, "projection_dim": 12})


def test_the_new_options_leave_the_fingerprints_of_older_subsets() -> None:
    config = build(SelectConfig, {"method": "less", "pool": "p", "target": "t", "warmup": "w", "budget": 5})
    assert not {"projection", "projection_dim", "direction"} & config.identity().keys()
    chosen = config.model_copy(update={"projection": "two_sided", "direction": "gradient"})
    assert {"projection", "direction"} <= chosen.identity().keys()
