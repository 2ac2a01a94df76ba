"""Signals of `curate embed --signals`, each with its obvious twin: one text at a time, by the model's own logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curate import make
from curate.config import build
from curate.errors import ConfigError, ModelError
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_model, load_tokenizer
from curate.lm.tokens.alone import answer_beginning, answers_alone
from curate.stages.embed.config import EmbedConfig
from curate.stages.tokens.tokenization import encode_pool
from curate.store import Store

SIGNALS = ["loss", "entropy", "surprise", "quantiles", "ifd"]
OPTIONS: dict[str, Any] = {"max_length": 96, "shard_rows": 16}
COLUMNS = ("loss", "entropy", "surprise", "loss_p10", "loss_p50", "loss_p90", "loss_without_prompt", "ifd")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, pool_file: Path, tiny: str) -> Store:
    """30 rows with one answer, two conversations with several, one long answer that is cut, and two plain texts."""
    folder = tmp_path_factory.mktemp("signals")
    user, assistant = (lambda text, role=role: {"role": role, "content": text} for role in ("user", "assistant"))
    rows: list[dict[str, Any]] = [json.loads(line) for line in pool_file.read_text().splitlines()[:30]]
    rows += [
        {"messages": [user("Add 1 and 2."), assistant("3"), user("And 4 more?"), assistant("7 of course")]},
        {"messages": [user("Say it."), assistant("It."), user("Again."), assistant("It."), user("?"), assistant("!")]},
        {"instruction": "Count.", "output": "1 2 3 4 5 6 7 8 9 " * 10},
        {"text": "A text without a prompt."},
        {"text": "Another one"},
    ]
    (folder / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    store = Store(folder / "store")
    make(store, "ingest", name="pool", data=[str(folder / "pool.jsonl")])
    make(store, "embed", name="feats", pool="pool", model=tiny, signals=SIGNALS, **OPTIONS)
    return store


def facts(store: Store, name: str) -> dict[str, dict[str, Any]]:
    rows = store.query("SELECT * EXCLUDE (features) FROM features WHERE features = $name", {"name": name})
    return {row["sample_id"]: row for row in rows.to_pylist()}


def test_each_signal_is_what_the_models_own_logits_say_of_one_text_alone(world: Store, tiny: str) -> None:
    config = build(EmbedConfig, {"name": "x", "pool": "pool", "model": tiny, **OPTIONS})
    options = config.options(tiny)
    tokenizer, model = load_tokenizer(options), load_model(options).eval()
    table = encode_pool(config, tokenizer, world.get("pool"), distinct=True).table
    found = facts(world, "feats")
    assert set(found) == set(table.ids) and len(found) == 35
    header = tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    seen = {"several": 0, "cut": 0, "texts": 0}
    for row, sample_id in enumerate(table.ids):
        ids, labels = (table[row][name].tolist() for name in ("input_ids", "labels"))
        places = [at for at in range(1, len(ids)) if labels[at] != -100]
        log_p = log_softmax_of(model, ids)
        losses = np.array([-log_p[at - 1, ids[at]] for at in places])
        entropies = np.array([-(log_p[at - 1].exp() * log_p[at - 1]).sum() for at in places])
        record, n = found[sample_id], len(places)
        assert record["loss"] == pytest.approx(losses.mean(), rel=1e-4)
        assert record["entropy"] == pytest.approx(entropies.mean(), rel=1e-4)
        assert record["surprise"] == pytest.approx((losses - entropies).sum() / n**0.5, rel=1e-3, abs=1e-4)
        for column, share in (("loss_p10", 0.1), ("loss_p50", 0.5), ("loss_p90", 0.9)):
            assert record[column] == pytest.approx(np.quantile(losses, share), rel=1e-4)
        seen["cut"] += record["truncated"]
        if labels[0] != -100:
            assert record["ifd"] is None and record["loss_without_prompt"] is None
            seen["texts"] += 1
            continue
        alone: list[float] = []
        answers = [at for at in places if at - 1 not in places]
        for start in answers:
            end = next((at for at in range(start, len(ids)) if labels[at] == -100), len(ids))
            text = [*header, *ids[start:end]]
            log_p = log_softmax_of(model, text)
            alone += [float(-log_p[at - 1, text[at]]) for at in range(len(header), len(text))]
        assert len(alone) == n, "the same tokens in both passes"
        seen["several"] += len(answers) > 1
        assert record["loss_without_prompt"] == pytest.approx(np.mean(alone), rel=1e-4)
        assert record["ifd"] == pytest.approx(losses.mean() / np.mean(alone), rel=1e-4)
    assert seen == {"several": 2, "cut": 1, "texts": 2}


def log_softmax_of(model: Any, ids: list[int]) -> Any:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().log_softmax(-1)


def test_each_signal_can_be_asked_for_alone_and_has_no_other_columns(world: Store, tiny: str) -> None:
    wanted = facts(world, "feats")
    for signal, columns in {
        "surprise": ["surprise"],
        "quantiles": ["loss_p10", "loss_p50", "loss_p90"],
        "ifd": ["loss", "loss_without_prompt", "ifd"],
    }.items():
        make(world, "embed", name=signal, pool="pool", model=tiny, signals=[signal], fresh=True, **OPTIONS)
        for sample_id, record in facts(world, signal).items():
            for column in COLUMNS:
                value = wanted[sample_id][column] if column in columns else None
                assert record[column] == (value if value is None else pytest.approx(value, rel=1e-4)), column


def test_a_grown_pool_measures_its_new_rows_only_also_where_a_signal_has_no_value(
    world: Store, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from curate.stages.embed.embedder import Embedder

    measured: list[int] = []
    plain = Embedder._measure

    def counted(self: Embedder, table: Any, new: Any, *others: Any) -> Any:
        measured.append(len(new))
        return plain(self, table, new, *others)

    monkeypatch.setattr(Embedder, "_measure", counted)
    (data,) = world.get("pool").config["data"]
    new = {"instruction": "Which is new?", "output": "This one."}
    (tmp_path / "grown.jsonl").write_text(json.dumps(new) + "\n" + Path(data).read_text())
    make(world, "ingest", name="grown", data=[str(tmp_path / "grown.jsonl")])
    grown = make(world, "embed", name="more", pool="grown", model=tiny, signals=SIGNALS, **OPTIONS)
    assert sum(measured) == 1 and grown.summary["of these from earlier features"] == 35
    before, after = facts(world, "feats"), facts(world, "more")
    assert len(after) == 36 and all(after[sample_id] == record for sample_id, record in before.items())


def test_a_loss_on_all_tokens_leaves_no_prompt_to_leave_out(tiny: str) -> None:
    with pytest.raises(ConfigError, match=r"ifd compares an answer with and without its prompt.*--loss-on all"):
        build(EmbedConfig, {"name": "x", "pool": "p", "model": tiny, "signals": ["ifd"], "loss_on": "all"})


def test_an_answer_alone_stands_behind_the_templates_header_and_its_beginning_token(tiny: str) -> None:
    tokenizer = load_tokenizer(ModelOptions(tiny))
    header = tokenizer("<|im_start|>assistant\n", add_special_tokens=False)["input_ids"]
    assert answer_beginning(tokenizer).tolist() == header
    tokenizer.bos_token = tokenizer.eos_token
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    assert answer_beginning(tokenizer).tolist() == [tokenizer.bos_token_id, *header]
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    assert answer_beginning(tokenizer).tolist() == [tokenizer.bos_token_id]
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(ModelError, match="ifd needs something before an answer"):
        answer_beginning(tokenizer)


def test_the_answers_of_a_text_are_its_runs_of_trained_tokens() -> None:
    ids, skip = np.arange(10, 20), -100
    labels = np.array([skip, skip, 12, 13, skip, 15, skip, skip, skip, 19])
    found = answers_alone({"input_ids": ids, "labels": labels}, np.array([1, 2]))
    assert [answer["input_ids"].tolist() for answer in found] == [[1, 2, 12, 13], [1, 2, 15], [1, 2, 19]]
    assert [answer["labels"].tolist() for answer in found] == [
        [skip, skip, 12, 13],
        [skip, skip, 15],
        [skip, skip, 19],
    ]
    assert answers_alone({"input_ids": ids, "labels": ids}, np.array([1])) == []
    assert answers_alone({"input_ids": ids, "labels": np.full(10, skip)}, np.array([1])) == []
