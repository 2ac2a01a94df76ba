"""Evaluation: held-out loss and answers; each number against the slow, obvious way to compute it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curate import make
from curate.config import build
from curate.errors import ConfigError, DataError
from curate.samples import Sample
from curate.stages.evaluate.answer_checks import RULES, Choices, NotScorable, last_number
from curate.stages.evaluate.config import EvaluateConfig
from curate.stages.evaluate.results import mean_and_error
from curate.stages.pools import pool_samples
from curate.store import Store

OPTIONS: dict[str, Any] = {"pool": "heldout", "max_length": 100, "max_new_tokens": 8, "shard_rows": 16}


def rows() -> list[dict[str, Any]]:
    """40 questions: sums with a number at the end, each also with choices."""
    found = []
    for i in range(40):
        right, other = i + 3, i + 4
        choices = [str(right), str(other)] if i % 3 else [str(other), str(right)]
        found.append(
            {
                "instruction": f"Add {i} and 3." + " Please." * (i % 4),
                "input": "",
                "output": str(right),
                "kind": "even" if i % 2 == 0 else "odd",
                "choices": choices,
                "answer": "AB"[choices.index(str(right))],
                "number": f"so {right}.0",
            }
        )
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A held-out pool of two sources, the second of which is the first's beginning again."""
    folder = tmp_path_factory.mktemp("evaluate")
    for name, part in (("a", rows()), ("b", rows()[:5])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    store = Store(folder / "store")
    make(store, "ingest", name="heldout", data=[f"a={folder / 'a.jsonl'}", f"b={folder / 'b.jsonl'}"])
    return store


def values(store: Store, name: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    found = store.query("SELECT * FROM evaluations WHERE evaluation = $name", {"name": name}).to_pylist()
    return {(row["metric"], row["grouped_by"], row["slice"]): row for row in found}


def one_by_one(model: str, samples: list[Sample]) -> list[tuple[float, int]]:
    """(sum of the losses of the target tokens, how many) of each sample, from full logits, alone."""
    from curate.lm.model.config_checks import ModelOptions
    from curate.lm.model.load import load_model, load_tokenizer
    from curate.lm.tokens.encode import Encoder

    options = ModelOptions(model)
    encoder, network = Encoder(load_tokenizer(options), max_length=100), load_model(options).eval()
    found = []
    for sample in samples:
        row = encoder(sample)
        ids = torch.tensor(row.input_ids, dtype=torch.int64)
        with torch.no_grad():
            log_p = network(input_ids=ids[None]).logits[0].log_softmax(-1)
        targets = [at for at in range(1, len(ids)) if row.target[at]]
        found.append((-sum(float(log_p[at - 1, ids[at]]) for at in targets), len(targets)))
    return found


def conversations(store: Store) -> list[Sample]:
    """Samples of the pool in order, as they were read: their choices are in the prompts."""
    return [sample for _, sample in pool_samples(store.get("heldout"))]


def with_answer(sample: Sample, answer: str) -> Sample:
    return replace(sample, messages=[*sample.messages[:-1], {"role": "assistant", "content": answer}])


def test_held_out_loss_is_token_weighted_and_that_of_the_obvious_loop(world: Store, tiny: str) -> None:
    made = make(world, "evaluate", name="plain", model=tiny, by=["source", "kind"], **OPTIONS)
    everything = [*rows(), *rows()[:5]]
    alone = one_by_one(tiny, conversations(world))
    groups = {
        ("loss", None, None): range(45),
        ("loss", "source", "a"): range(40),
        ("loss", "source", "b"): range(40, 45),
        ("loss", "kind", "even"): [i for i in range(45) if everything[i]["kind"] == "even"],
        ("loss", "kind", "odd"): [i for i in range(45) if everything[i]["kind"] == "odd"],
    }
    found = values(world, "plain")
    assert set(found) == set(groups)
    for key, members in groups.items():
        total, tokens = (sum(part) for part in zip(*(alone[i] for i in members), strict=True))
        assert found[key]["value"] == pytest.approx(total / tokens, rel=1e-5)
        assert (found[key]["tokens"], found[key]["samples"]) == (tokens, len(members))
        assert found[key]["run"] is None and found[key]["task"] == "heldout"
    answers = world.query("SELECT * FROM answers WHERE evaluation = 'plain' ORDER BY position").to_pylist()
    assert [row["loss"] for row in answers] == pytest.approx([total / n for total, n in alone], rel=1e-5)
    assert dict(answers[0]["slices"]) == {"source": "a", "kind": "even"} and answers[0]["correct"] is None
    assert made.rows == 45 and made.table().num_rows == 45
    assert made.summary["results"][0]["value"] == found["loss", None, None]["value"]


def test_the_loss_does_not_depend_on_what_is_measured_together(world: Store, tiny: str, tmp_path: Path) -> None:
    one = values(world, make(world, "evaluate", name="one", model=tiny, **OPTIONS).name)
    other = Store(tmp_path / "store")
    make(other, "ingest", name="heldout", data=list(world.get("heldout").config["data"]))
    options = {**OPTIONS, "shard_rows": 7, "score_batch_size": 1}
    again = values(other, make(other, "evaluate", name="one", model=tiny, **options).name)
    assert one.keys() == again.keys()
    assert all(again[key]["value"] == pytest.approx(one[key]["value"], rel=1e-6) for key in one)


def test_the_error_of_a_mean_is_that_of_the_mean_and_of_a_weighted_one_that_of_repeated_draws() -> None:
    draws = np.random.default_rng(0)
    plain = draws.random(50)
    mean, error = mean_and_error(plain, np.ones(50))
    assert (mean, error) == (pytest.approx(plain.mean()), pytest.approx(plain.std(ddof=1) / 50**0.5))
    assert mean_and_error(np.array([2.0]), np.array([7.0])) == (2.0, None)

    def sample() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        weights = draws.integers(1, 20, 200).astype(float)
        return draws.normal(2 + 0.05 * weights, 1), weights

    found = [mean_and_error(*sample()) for _ in range(400)]
    assert np.std([mean for mean, _ in found]) == pytest.approx(np.mean([error for _, error in found]), rel=0.15)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 1,234.00.", "1234"),
        ("#### 18", "18"),
        ("9 + 9 = 18 eggs, so $18", "18"),
        ("it is -5", "-5"),
        ("it is −5", "-5"),
        ("10-5", "5"),
        ("(3)-2", "2"),
        ("costs $.50", "0.5"),
        ("3/4", "4"),
        ("1,2,3", "3"),
        ("1,000,000 and 2,0001", "1"),
        ("v7", "7"),
        ("5.", "5"),
        ("50%", "50"),
        ("none at all", None),
        ("", None),
    ],
)
def test_the_last_number_of_a_text(text: str, number: str | None) -> None:
    from decimal import Decimal

    assert last_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("metric", "prediction", "reference", "right"),
    [
        ("last_number", "so 1,234.00 in all", "#### 1234", True),
        ("last_number", "1234.5", "1234", False),
        ("last_number", "no idea", "7", False),
        ("last_number", "0.10", ".1", True),
        ("exact_match", "  New\n York ", "new york", True),
        ("exact_match", "STRASSE", "straße", True),
        ("exact_match", "New York.", "New York", False),
        ("exact_match", "newyork", "new york", False),
        ("exact_match", "", "x", False),
    ],
)
def test_an_answer_is_right_by_the_rule_of_its_metric(
    metric: str, prediction: str, reference: str, right: bool
) -> None:
    assert RULES[metric](prediction, reference) is right


def test_choices_are_answered_with_as_the_assistant_of_the_row_does() -> None:
    def of(text: str, **row: Any) -> Choices:
        return Choices.of({"choices": ["red", "blue", "green"], **row}, text, choices="choices", answer="answer")

    assert of("B", answer="B") == Choices(("A", "B", "C"), 1)
    assert of("Blue ", answer="B") == of("blue", answer=1) == of("blue", answer="1") == of("blue", answer="blue")
    assert of("blue", answer=1) == Choices(("red", "blue", "green"), 1)
    assert of("x", answer=0, choices='["x", "y"]').answers == of("x", answer=0, choices={"text": ["x", "y"]}).answers
    for text, row, reason in [
        ("B", {"answer": "C"}, "neither the right choice nor its letter"),
        ("B", {"answer": "D"}, "no letter, number or text of a choice in column answer"),
        ("B", {"answer": 3}, "no letter, number"),
        ("B", {"answer": True}, "no letter, number"),
        ("B", {"answer": "B", "choices": "red, blue"}, "no list in column choices"),
        ("B", {"answer": "B", "choices": ["red"]}, "no list of 2 to 26 choices"),
    ]:
        with pytest.raises(NotScorable, match=reason):
            of(text, **row)


def test_choices_are_made_by_likelihood_as_in_a_loop_over_log_softmax(world: Store, tiny: str) -> None:
    make(world, "evaluate", name="chosen", model=tiny, metric=["choice"], **OPTIONS)
    everything = [*rows(), *rows()[:5]]
    expected = {}
    for i, (row, sample) in enumerate(zip(everything, conversations(world), strict=True)):
        costs = one_by_one(tiny, [with_answer(sample, choice) for choice in row["choices"]])
        expected["choice", i] = row["choices"][int(np.argmin([total for total, _ in costs]))]
        expected["choice_norm", i] = row["choices"][int(np.argmin([total / tokens for total, tokens in costs]))]
    answers = world.query("SELECT * FROM answers WHERE evaluation = 'chosen' AND metric <> 'loss'").to_pylist()
    assert {(row["metric"], row["position"]): row["prediction"] for row in answers} == expected
    for row in answers:
        assert row["reference"] == everything[row["position"]]["output"]
        assert row["correct"] == (row["prediction"] == row["reference"])
    found = values(world, "chosen")
    for metric in ("choice", "choice_norm"):
        right = [expected[metric, i] == row["output"] for i, row in enumerate(everything)]
        assert 0 < sum(right) < 45, "else the test would pass for a constant"
        assert found[metric, None, None]["value"] == pytest.approx(np.mean(right))
        assert found[metric, "source", "b"]["value"] == pytest.approx(np.mean(right[40:]))
        assert found[metric, None, None]["tokens"] is None


def test_a_model_whose_losses_are_not_finite_is_an_error_that_says_so(
    world: Store, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("curate.lm.model.load.require_finite", lambda model, location: None)  # it names the weight
    from curate.lm.model.config_checks import ModelOptions
    from curate.lm.model.load import load_model, load_tokenizer

    model = load_model(ModelOptions(tiny))
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    model.save_pretrained(tmp_path / "nan")  # type: ignore[operator]
    load_tokenizer(ModelOptions(tiny)).save_pretrained(tmp_path / "nan")
    with pytest.raises(
        DataError, match=r"loss cannot be measured on any sample of .*'heldout': loss not finite \(45\)"
    ):
        make(world, "evaluate", name="nan", model=str(tmp_path / "nan"), **OPTIONS)


def test_options_that_do_not_go_together_are_errors() -> None:
    for values, message in [
        ({}, "--pool NAME, --tasks NAME, or both"),
        ({"tasks": ["t"], "metric": ["choice"]}, "--metric has an effect only with --pool, which is not given"),
        ({"pool": "p", "task_folder": "t"}, "--task-folder has an effect only with --tasks, which is not given"),
        ({"pool": "p", "metric": ["bleu"]}, "metric"),
    ]:
        with pytest.raises(ConfigError, match=message):
            build(EvaluateConfig, {"name": "x", "model": "m", **values})
