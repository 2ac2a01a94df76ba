"""`curate attribute`: influence of trained samples on queries, by checkpoint, sample and token, against a slow loop."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curate import Artifact, make
from curate.errors import ConfigError, CurateError
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_model
from curate.numerics.losses import IGNORE
from curate.stages.attribute.config import AttributeConfig
from curate.stages.attribute.passes import check_memory
from curate.stages.attribute.stage import Attribution
from curate.stages.inputs import resolve
from curate.store import Draft, Store
from curate.training.gradients.attribution import QueryProducts
from curate.training.gradients.token_products import NotDifferentiable

TRAIN = {"selector": "max_loss", "candidates": 6, "keep": 3, "max_steps": 6, "save_steps": 2, "save_total_limit": 9}
TRAIN |= {"max_length": 64, "learning_rate": 3e-3, "warmup_steps": 2, "logging_steps": 1, "lora_r": 2}


def lines(path: Path, n: int, offset: int = 0) -> str:
    rows = [{"prompt": f"Say {i + offset}.", "completion": f"It is {(i * 7) % 5}." * (1 + i % 3)} for i in range(n)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny: str) -> Store:
    """A run with three checkpoints and selection by loss, and three queries; nobody changes it."""
    folder = tmp_path_factory.mktemp("attribute")
    store = Store(folder / "store")
    make(store, "ingest", name="pool", data=[lines(folder / "pool.jsonl", 14)])
    make(store, "ingest", name="queries", data=[lines(folder / "queries.jsonl", 3, 50)])
    make(store, "train", name="run", pool="pool", model=tiny, **TRAIN)
    return store


def attribution(store: Store, folder: Path, **options: Any) -> Attribution:
    config = AttributeConfig(**{"name": "x", "run": "run", "pool": "queries", **options})
    return Attribution(config, resolve(store, config), Draft(folder, "b2:x", folder / "catalog"))


def loss_of(model: Any, row: Any) -> torch.Tensor:
    """Mean loss over the target tokens of one text, by the model's own forward pass."""
    ids, labels = (torch.as_tensor(row[key])[None] for key in ("input_ids", "labels"))
    logits = model(input_ids=ids).logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, labels[0, 1:], ignore_index=IGNORE)


def gradient_of(model: Any, row: Any) -> dict[str, torch.Tensor]:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss_of(model, row), list(named.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), found, strict=True)}


def scales(checkpoint: Path, model: Any, metric: str, own: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
    """1 / (√v̄ + ε) of each parameter, from the optimizer's file and the gradients of single samples.

    v̄ is that after one more step, whose gradient is the mean of 3 of these samples, drawn at random.
    """
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    if metric == "plain":
        return dict.fromkeys(names, 1.0)
    saved = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    by_name: dict[str, Any] = {}
    clip: dict[str, torch.Tensor] = {}
    n = len(own)
    order = [key for group in saved["param_groups"] for key in group["params"]]
    for name, key in zip(names, order, strict=True):
        state, group = saved["state"][key], saved["param_groups"][0]
        block = torch.stack([each[name] for each in own])
        mean, beta = block.mean(0), group["betas"][1]
        square = mean**2 + (block**2 - mean**2).mean(0) * n / (n - 1) * (1 / 3 - 1 / n)
        clip[name] = square
        by_name[name] = state["exp_avg_sq"], float(state["step"]), beta, group["eps"]
    factor = min(1.0, 1.0 / (float(sum(square.sum() for square in clip.values())) ** 0.5 + 1e-6))
    found = {}
    for name, (v, step, beta, eps) in by_name.items():
        after = beta * v + (1 - beta) * factor**2 * clip[name]
        found[name] = 1 / ((after / (1 - beta ** (step + 1))).sqrt() + eps)
    return found


def slow(made: Attribution, store: Store, run: Artifact, metric: str) -> dict[str, np.ndarray]:
    """Sample id -> influence on each query: a loop over checkpoints, steps of the ledger, and samples."""
    ledger = store.query("SELECT * FROM ledger WHERE run = 'run' AND kept ORDER BY step, slot").to_pylist()
    logged = store.query("SELECT step, metric, value FROM metrics WHERE run = 'run'").to_pylist()
    rate = {row["step"]: row["value"] for row in logged if row["metric"] == "learning_rate"}
    norm = {row["step"]: row["value"] for row in logged if row["metric"] == "grad_norm"}
    found = {row["sample_id"]: np.zeros(len(made.queries.ids)) for row in ledger}
    start = 0
    for number, checkpoint in enumerate(made.checkpoints):
        model = load_model(ModelOptions(str(checkpoint)), trainable=True).eval()
        queries = [gradient_of(model, row) for row in made.queries.rows]
        end = int(checkpoint.name.split("-")[1])
        last = number == len(made.checkpoints) - 1
        inside = [row for row in ledger if start < row["step"] and (last or row["step"] <= end)]
        texts = {row["sample_id"]: made.texts[row["sample_id"], None] for row in inside}
        own = {sample_id: gradient_of(model, text) for sample_id, text in texts.items()}
        scale = scales(checkpoint, model, metric, list(own.values()))
        for row in inside:
            mine = own[row["sample_id"]]
            step = [other for other in ledger if other["step"] == row["step"]]
            weight = row["target_tokens"] / sum(other["target_tokens"] for other in step)
            eta = rate[row["step"]] * min(1.0, 1.0 / (norm[row["step"]] + 1e-6))
            for query, theirs in enumerate(queries):
                product = sum(float((scale[name] * mine[name] * theirs[name]).double().sum()) for name in mine)
                found[row["sample_id"]][query] += eta * weight * product
        start = end
    return found


@pytest.mark.parametrize("metric", ["adam", "plain"])
def test_influence_is_that_of_a_slow_loop(world: Store, tmp_path: Path, metric: str) -> None:
    made = attribution(world, tmp_path, metric=metric)
    assert len(made.checkpoints) == 3
    ranking = made.ranking()
    expected = slow(made, world, world.get("run"), metric)
    assert ranking.ids == sorted(expected)
    wanted = np.array([expected[sample_id] for sample_id in ranking.ids])
    assert np.abs(ranking.influence[:, :-1] - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert np.allclose(ranking.influence[:, -1], ranking.influence[:, :-1].mean(1))
    assert wanted.std(0).min() > 0 and np.linalg.matrix_rank(wanted) == 3  # they differ by sample and by query


def test_tokens_add_up_to_the_sample_and_are_those_of_single_backward_passes(
    world: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = attribution(world, tmp_path, per_token=True, top=2, checkpoints=(2, 6))
    ranking = made.ranking()
    tokens = made.by_token(ranking)
    assert set(tokens) == set(ranking.everywhere(2)) and len(tokens) >= 4
    for sample_id, (texts, values) in tokens.items():
        place = ranking.ids.index(sample_id)
        row = ranking.influence[place]
        assert len(texts) == len(values) > 1 and (values.std() > 0) == (ranking.exposure[place] > 0)
        assert np.abs(values.sum(0) - row).max() <= 1e-5 * np.abs(values).sum(0).max()

    def fails(*args: Any) -> Any:
        raise NotDifferentiable("no")

    monkeypatch.setattr("curate.training.gradients.attribution.token_losses_along", fails)
    again = attribution(world, tmp_path / "again", per_token=True, top=2, checkpoints=(2, 6))
    one_by_one = again.by_token(ranking)
    for sample_id, (_, values) in tokens.items():
        assert np.abs(one_by_one[sample_id][1] - values).max() <= 1e-5 * np.abs(values).max()


def test_a_token_mask_leaves_out_the_tokens_that_were_not_trained_on(world: Store, tmp_path: Path) -> None:
    made = attribution(world, tmp_path)
    sample_id = made.exposures[0].sample_id
    whole = made.texts[sample_id, None]
    targets = np.flatnonzero(whole["labels"][1:] != IGNORE) + 1
    bits = np.arange(len(targets)) % 2 == 0
    masked = made.texts[sample_id, np.packbits(bits).tobytes()]
    assert (np.flatnonzero(masked["labels"] != IGNORE) == targets[bits]).all()
    assert (whole["labels"][targets] != IGNORE).all(), "the table itself is unchanged"


def test_a_cosine_is_that_of_less_and_a_sketch_is_near(world: Store, tmp_path: Path) -> None:
    made = attribution(world, tmp_path, metric="less", checkpoints=(4,))
    exact = made.ranking().influence[:, :3]
    near = attribution(world, tmp_path / "near", metric="less", checkpoints=(4,), sketch_dim=8192).ranking()
    loaded = QueryProducts.at(made.settings.options(str(made.checkpoints[0])), "less")
    model, update = loaded.engine.scoring_model.model.eval(), loaded.engine.adam().update

    def flat(row: Any, step: Callable[[str, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return torch.cat([step(name, g[None])[0].flatten() for name, g in gradient_of(model, row).items()])

    asked = [flat(row, lambda name, block: block) for row in made.queries.rows]
    steps = [flat(made.texts[each.sample_id, None], update) for each in made.exposures]
    exposure = np.array([each.exposure for each in made.exposures])
    cosines = np.array([[float(torch.cosine_similarity(step, q, dim=0)) for q in asked] for step in steps])
    assert [each.sample_id for each in made.exposures] == near.ids, "each is there once, as there is one checkpoint"
    assert np.abs(exact - exposure[:, None] * cosines).max() <= 1e-5 * exposure.max()
    assert np.abs(near.influence[:, :3] - exact).max() <= 0.1 * exposure.max()
    assert not np.array_equal(near.influence[:, :3], exact)


def test_a_stopped_attribution_goes_on_and_ends_as_one_that_was_not(
    world: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curate.stages.attribute.passes.CHUNK", 3)
    whole = attribution(world, tmp_path, checkpoints=(2, 4))
    expected = whole.ranking()
    products, calls = QueryProducts.products, []

    def stop(self: QueryProducts, rows: Any) -> Any:
        calls.append(len(rows))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return products(self, rows)

    monkeypatch.setattr(QueryProducts, "products", stop)
    options: dict[str, Any] = {"run": "run", "pool": "queries", "top": 3, "checkpoints": (2, 4), "name": "stopped"}
    with pytest.raises(KeyboardInterrupt):
        make(world, "attribute", **options)
    made = make(world, "attribute", **options)
    assert sum(calls) - calls[2] == len(whole.exposures), "what was finished is not done again"
    rows = world.query("SELECT * FROM attributions WHERE attribution = 'stopped' AND query_id IS NULL").to_pylist()
    by_id = dict(zip(expected.ids, expected.influence[:, -1].tolist(), strict=True))
    assert rows and all(row["influence"] == by_id[row["sample_id"]] for row in rows)
    assert made.rows == len(expected.ids)


def test_the_table_has_both_ends_of_each_order(world: Store) -> None:
    made = make(world, "attribute", name="ends", run="run", pool="queries", top=2, per_token=True, checkpoints=(6,))
    rows = world.query("SELECT * FROM attributions WHERE attribution = 'ends'").to_pylist()
    queries = world.query("SELECT sample_id FROM samples WHERE pool = 'queries'")["sample_id"].to_pylist()
    assert {row["query_id"] for row in rows} == {*queries, None} and {row["run"] for row in rows} == {"run"}
    for query in (*queries, None):
        own = sorted((row for row in rows if row["query_id"] == query), key=lambda row: row["rank"])
        assert [row["rank"] for row in own] == [0, 1, made.rows - 2, made.rows - 1]
        assert [row["from_bottom"] for row in own] == [made.rows - 1, made.rows - 2, 1, 0]
        assert all(a["influence"] >= b["influence"] for a, b in itertools.pairwise(own))
        assert all(row["query"] is None and -1 <= row["share"] <= 1 for row in own)
        for row in own:
            assert sum(row["tokens"]) == pytest.approx(row["influence"], abs=1e-5 * sum(map(abs, row["tokens"])))
            assert len(row["token_texts"]) == len(row["tokens"])
    kept = "SELECT count(*) AS n, sample_id FROM ledger WHERE run = 'run' AND kept GROUP BY sample_id"
    times = {row["sample_id"]: row["n"] for row in world.query(kept).to_pylist()}
    assert all(row["steps"] == times[row["sample_id"]] for row in rows)
    mean = [row for row in rows if row["query_id"] is None]
    assert made.summary["top"][0]["influence"] == mean[0]["influence"]
    assert made.summary["top"][0]["text"].startswith("Say ")


def test_a_question_on_the_command_line_is_a_query(world: Store) -> None:
    options: dict[str, Any] = {"run": "run", "checkpoints": (6,), "top": 1}
    made = make(world, "attribute", name="why", text="Say 50.", answer="It is 0.", **options)
    pool = make(world, "attribute", name="same", pool="queries", limit=1, **options)
    found = [world.query("SELECT * FROM attributions WHERE attribution = $n", {"n": n}) for n in ("why", "same")]
    for column in ("query_id", "sample_id", "influence", "rank"):
        assert found[0][column].to_pylist() == found[1][column].to_pylist()
    assert set(found[0]["query"].to_pylist()) == {"Say 50.\nIt is 0."} and made.summary["queries"] == 1
    assert pool.summary["top"] == made.summary["top"]
    plain = make(world, "attribute", name="plain", text="It is 0.", **options)
    assert plain.summary["top"] != made.summary["top"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either --pool NAME, or --text QUESTION"),
        ({"pool": "queries", "text": "x"}, "either --pool NAME, or --text QUESTION"),
        ({"pool": "queries", "answer": "x"}, "--answer is the answer to the question of --text"),
        ({"text": " "}, "--text is empty"),
        ({"text": "x", "limit": 2}, "--limit has an effect only with --pool"),
        ({"pool": "queries", "per_token": True, "metric": "less"}, "a cosine is not"),
        ({"pool": "queries", "per_token": True, "sketch_dim": 64}, "--per-token needs exact products"),
        ({"pool": "queries", "checkpoints": (3,)}, "has no checkpoint of step 3: it has those of the steps 2, 4, 6"),
    ],
)
def test_wrong_options_say_what_to_do(world: Store, options: dict[str, Any], message: str) -> None:
    values = {"name": "wrong", "run": "run", "checkpoints": (6,), **options}
    with pytest.raises(CurateError, match=message):
        make(world, "attribute", **values)


def test_queries_that_need_too_much_memory_say_what_helps() -> None:
    config = AttributeConfig(run="run", pool="queries", query_memory_mb=100)
    check_memory(25, 1 << 20, config)
    with pytest.raises(ConfigError, match=r"of 26 queries need 104 MB .* --sketch-dim 8192, --limit 25, or .*-mb 104"):
        check_memory(26, 1 << 20, config)
    check_memory(10**6, 1 << 20, AttributeConfig(run="run", pool="queries", sketch_dim=8192))


def test_a_run_without_checkpoints_says_how_to_keep_some(world: Store, tiny: str) -> None:
    run = make(world, "train", name="bare", pool="pool", model=tiny, **{**TRAIN, "max_steps": 1, "seed": 3})
    for path in (run.path / "checkpoints").glob("*"):
        path.rename(run.path / f"moved-{path.name}")
    with pytest.raises(ConfigError, match=r"'bare' has kept no checkpoints .* --save-steps N --save-total-limit M"):
        make(world, "attribute", name="x", run="bare", pool="queries")
