"""Conversations that are trained on answer by answer, from ingest to an export that is read back.

The template drops the reasoning of earlier answers, so a conversation with several answers is split.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from curate import Artifact, make
from curate.errors import DataError
from curate.samples import answer_id
from curate.stages import recorded_config
from curate.stages.embed.config import EmbedConfig
from curate.stages.tokens.tokenization import make_encoder
from curate.stages.tokens.turns import Expansion, have_several_answers
from curate.store import Store
from tests.support.chats import DROPS_REASONING, conversation, write_rows
from tests.support.training import interrupted_at, rows, weights

ROWS = [conversation(n, 1 + n % 3, family=f"f{n % 2}") for n in range(18)]
ANSWERS = 36
"""6 conversations with one answer, 6 with two and 6 with three; the one-answer conversations are whole."""

UNKNOWN = "SELECT count(*) n FROM {table} t WHERE t.sample_id NOT IN (SELECT sample_id FROM origins)"


@pytest.fixture
def template(tmp_path: Path) -> str:
    path = tmp_path / "template.jinja"
    path.write_text(DROPS_REASONING, encoding="utf-8")
    return str(path)


@pytest.fixture
def reading(tiny: str, template: str) -> dict[str, Any]:
    """The options that decide the tokens."""
    return {"model": tiny, "chat_template": template, "max_length": 128}


@pytest.fixture
def pool(store: Store, tmp_path: Path) -> Artifact:
    return make(store, "ingest", name="pool", data=[write_rows(tmp_path / "chats.jsonl", ROWS)])


@pytest.fixture
def features(store: Store, pool: Artifact, reading: dict[str, Any]) -> Artifact:
    return make(store, "embed", name="features", pool="pool", shard_rows=5, **reading)


def train(store: Store, reading: dict[str, Any], name: str, **values: Any) -> Artifact:
    small = {"candidates": 8, "keep": 4, "max_steps": 5, "logging_steps": 1}
    return make(store, "train", name=name, pool="pool", **{**small, **reading, **values})


def exported(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "train.jsonl").read_text(encoding="utf-8").splitlines()]


def test_features_are_of_answers_and_sql_knows_their_conversation_and_turn(store: Store, features: Artifact) -> None:
    assert features.rows == ANSWERS
    found = rows(store, "SELECT f.sample_id, o.* FROM features f JOIN origins o USING (sample_id)")
    assert len(found) == ANSWERS
    for row in found:
        whole = ROWS[row["position"]]["messages"]
        expected = row["conversation_id"] if row["turn"] is None else answer_id(row["conversation_id"], row["turn"])
        assert row["sample_id"] == expected
        assert (row["turn"] is None) == (len(whole) == 2)
        assert json.loads(row["metadata"])["family"] == f"f{row['position'] % 2}"
    turns = rows(store, "SELECT artifact, count(*) n, count(DISTINCT conversation_id) c FROM turn_samples GROUP BY 1")
    assert turns == [{"artifact": "features", "n": 30, "c": 12}]
    assert rows(store, "SELECT count(*) n FROM samples") == [{"n": 18}]


def test_the_prompt_of_an_answer_is_what_the_template_renders_at_inference(
    pool: Artifact, reading: dict[str, Any]
) -> None:
    from curate.lm.model.load import load_tokenizer
    from curate.stages.pools import pool_samples

    config = EmbedConfig(pool="pool", **reading)
    tokenizer = load_tokenizer(config.options(reading["model"]))
    expansion = Expansion(make_encoder(config, tokenizer))
    for _, sample in expansion(pool_samples(pool)):
        row = expansion.encoder(sample)
        first = int(row.target.argmax())
        prompt = tokenizer.apply_chat_template(
            list(sample.messages[:-1]), add_generation_prompt=True, return_dict=False
        )
        assert row.input_ids[:first].tolist() == list(prompt)
        assert row.target[first:].all()
        text = tokenizer.decode(row.input_ids[first:].tolist())
        assert sample.messages[-1]["reasoning_content"] in text and text.rstrip().endswith("<|im_end|>")


@pytest.mark.parametrize("selector", ["uds", "random", "filter_weight"])
def test_a_run_keeps_answers_and_its_ledger_joins_to_conversations(
    store: Store, pool: Artifact, reading: dict[str, Any], tmp_path: Path, selector: str
) -> None:
    more = {}
    if selector == "filter_weight":
        data = write_rows(tmp_path / "target.jsonl", ROWS[:4])
        make(store, "ingest", name="target", data=[data])
        more = {"target": "target", "target_batch_size": 2}
    run = train(store, reading, "run", selector=selector, **more)
    assert run.summary["conversations split"] == 12 and run.summary["into answers"] == 30
    ledger = rows(
        store, "SELECT l.*, o.position AS row FROM ledger l JOIN origins o USING (sample_id) WHERE o.pool = 'pool'"
    )
    assert len(ledger) == rows(store, "SELECT count(*) n FROM ledger")[0]["n"] == ANSWERS
    assert len({row["sample_id"] for row in ledger}) == ANSWERS  # five steps of eight are an epoch, each answer once
    assert all(row["position"] == row["row"] for row in ledger)
    if selector == "random":  # the noise of a candidate depends on its number, so answers of a row have their own
        assert len({(row["step"], row["score"]) for row in ledger}) == ANSWERS
    rates = rows(store, "SELECT sample_id, offered FROM keep_rate")
    assert {row["sample_id"] for row in rates} == {row["sample_id"] for row in ledger}
    assert all(row["offered"] == 1 for row in rates)


def test_the_memory_of_uds_names_the_answers_it_holds(store: Store, pool: Artifact, reading: dict[str, Any]) -> None:
    train(store, reading, "run")
    held = rows(store, "SELECT sample_id, step FROM memory ORDER BY row")
    kept = rows(store, "SELECT sample_id, step FROM ledger WHERE kept")
    assert len(held) == len({row["sample_id"] for row in held}) > 0
    assert {(row["sample_id"], row["step"]) for row in held} <= {(row["sample_id"], row["step"]) for row in kept}


def test_a_resumed_run_over_answers_has_the_weights_of_an_uninterrupted_one(
    store: Store, pool: Artifact, reading: dict[str, Any], tmp_path: Path
) -> None:
    def run(name: str) -> Artifact:
        return train(store, reading, name, save_steps=2, max_steps=6)

    with interrupted_at(4):
        run("run")
    resumed = run("run")
    ledger = rows(store, "SELECT step, slot, sample_id, kept, score FROM ledger ORDER BY step, slot")
    other = Store(tmp_path / "other")
    make(other, "ingest", name="pool", data=[str(tmp_path / "chats.jsonl")])
    whole = train(other, reading, "run", save_steps=2, max_steps=6)
    assert all((value == weights(whole)[name]).all() for name, value in weights(resumed).items())
    assert ledger == rows(other, "SELECT step, slot, sample_id, kept, score FROM ledger ORDER BY step, slot")


def test_a_selection_is_of_answers_and_the_export_is_whole_conversations_again(
    store: Store, features: Artifact, reading: dict[str, Any], tmp_path: Path
) -> None:
    subset = make(store, "select", name="subset", method="random", pool="pool", features="features", budget=9)
    chosen = rows(store, "SELECT o.* FROM subsets s JOIN origins o USING (sample_id) ORDER BY rank")
    assert len(chosen) == 9 == subset.rows
    run = train(store, reading, "tuned", subset="subset", selector="full", candidates=3, keep=3, max_steps=3)
    trained = rows(store, "SELECT DISTINCT sample_id FROM ledger WHERE run = 'tuned'")
    assert {row["sample_id"] for row in trained} == {row["sample_id"] for row in chosen}
    assert run.summary["kept"] == "9 of 9 candidates"
    out = tmp_path / "out"
    export = make(store, "export", name="export", subset="subset", file_format="jsonl", to=str(out), columns=["score"])
    turns: dict[int, list[int]] = {}
    for row in chosen:
        turns.setdefault(row["position"], []).append(1 if row["turn"] is None else row["turn"])
    written = exported(out)
    assert [row["messages"] for row in written] == [ROWS[position]["messages"] for position in turns]
    assert [row["chosen_turns"] for row in written] == [sorted(found) for found in turns.values()]
    assert all(len(row["score"]) == len(row["chosen_turns"]) for row in written)
    total = sum(len(ROWS[position]["messages"]) // 2 for position in turns)
    assert (export.summary["answers chosen"], export.summary["of"]) == (9, total)
    assert f"9 of the {total} answers" in (out / "README.md").read_text(encoding="utf-8")
    assert rows(store, "SELECT count(*) n FROM subsets WHERE subset = 'export'") == [{"n": 9}]
    again = make(store, "ingest", name="again", data=[str(out / "train.jsonl")])
    assert again.rows == len(turns)
    known = (
        "SELECT count(*) n FROM samples a JOIN samples p USING (sample_id) WHERE a.pool = 'again' AND p.pool = 'pool'"
    )
    assert rows(store, known) == [{"n": len(turns)}]


def test_messages_are_marked_for_a_trainer_that_reads_a_mark(store: Store, features: Artifact, tmp_path: Path) -> None:
    make(store, "select", name="subset", method="random", pool="pool", features="features", budget=9)
    out = tmp_path / "out"
    make(store, "export", name="export", subset="subset", trainer="axolotl", file_format="jsonl", to=str(out))
    for row in exported(out):
        marked = [turn for turn, message in enumerate(row["messages"]) if message.get("train")]
        assert marked == row["chosen_turns"]
        assert all(("train" in message) == (message["role"] == "assistant") for message in row["messages"])
    assert "message_field_training: train" in (out / "axolotl.yaml").read_text(encoding="utf-8")


def test_a_trainer_that_drops_reasoning_is_refused_answers_that_have_it(
    store: Store, features: Artifact, tmp_path: Path
) -> None:
    make(store, "select", name="subset", method="random", pool="pool", features="features", budget=9)
    with pytest.raises(DataError, match="ms-swift drops the reasoning of messages"):
        make(store, "export", name="export", subset="subset", trainer="ms-swift", to=str(tmp_path / "out"))


def test_a_format_with_one_answer_refuses_other_chosen_answers(
    store: Store, features: Artifact, tmp_path: Path
) -> None:
    sql = "SELECT sample_id FROM turn_samples WHERE turn = 1"
    with pytest.raises(DataError, match=r"holds one answer, the last, but others of sample \w{32} are selected"):
        make(store, "export", name="x", sql=sql, pool="pool", format="prompt-completion", to=str(tmp_path / "x"))
    last = "SELECT sample_id FROM turn_samples WHERE turn = 5"
    made = make(store, "export", name="y", sql=last, pool="pool", format="prompt-completion", to=str(tmp_path / "y"))
    assert made.rows == 6


def test_a_conversation_in_a_subset_stands_for_all_of_its_answers(
    store: Store, pool: Artifact, reading: dict[str, Any]
) -> None:
    make(store, "select", name="subset", method="random", pool="pool", budget=6)
    held = rows(store, "SELECT o.position FROM subsets s JOIN samples o USING (sample_id)")
    expected = sum(len(ROWS[row["position"]]["messages"]) // 2 for row in held)
    run = train(
        store, reading, "tuned", subset="subset", selector="full", sequence=True, candidates=2, keep=2, max_steps=3
    )
    assert run.summary["into answers"] <= expected
    order = rows(
        store,
        "SELECT l.step, l.slot, o.conversation_id, o.turn, s.rank FROM ledger l JOIN origins o USING "
        "(sample_id) JOIN subsets s ON s.sample_id = o.conversation_id ORDER BY step, slot",
    )
    assert len(order) == 6 and [(row["rank"], row["turn"] or 0) for row in order] == sorted(
        (row["rank"], row["turn"] or 0) for row in order
    )


def test_answers_of_a_subset_that_a_run_reads_whole_are_an_error(
    store: Store, features: Artifact, reading: dict[str, Any]
) -> None:
    make(store, "select", name="subset", method="random", pool="pool", features="features", budget=20)
    with pytest.raises(DataError, match="are answers of conversations that this run reads whole"):
        train(store, reading, "tuned", subset="subset", selector="full", turns="whole", loss_on="all")


def test_less_scores_the_answers_that_its_warm_up_run_reads(
    store: Store, pool: Artifact, reading: dict[str, Any], tmp_path: Path
) -> None:
    make(store, "ingest", name="target", data=[write_rows(tmp_path / "target.jsonl", ROWS[:3])])
    make(store, "select", name="few", method="random", pool="pool", budget=6)
    train(store, reading, "warm", subset="few", selector="full", candidates=4, keep=4, max_steps=2, save_steps=1)
    subset = make(store, "select", name="less", method="less", pool="pool", target="target", warmup="warm", budget=7)
    assert subset.rows == 7 and subset.summary["selected"] == f"7 of {ANSWERS} samples"
    assert rows(store, UNKNOWN.format(table="(FROM subsets WHERE subset = 'less')")) == [{"n": 0}]
    scores = rows(store, "SELECT score FROM subsets WHERE subset = 'less' ORDER BY rank")
    assert scores == sorted(scores, key=lambda row: -row["score"]) and len({row["score"] for row in scores}) > 1


def test_cluster_ucb_draws_answers_by_their_clusters(
    store: Store, features: Artifact, reading: dict[str, Any], tmp_path: Path
) -> None:
    make(store, "ingest", name="target", data=[write_rows(tmp_path / "target.jsonl", ROWS[:3])])
    train(store, reading, "warm", selector="full", candidates=4, keep=4, max_steps=2, save_steps=1)
    clusters = make(store, "cluster", name="clusters", features="features", k=3, sample=100)
    assert clusters.rows == ANSWERS
    assert "Add" in clusters.summary["largest"][0]["representatives"]
    values = {"pool": "pool", "target": "target", "warmup": "warm", "clusters": "clusters", "budget": 5}
    subset = make(store, "select", name="ucb", method="cluster_ucb", **values)
    assert subset.rows == 5
    drawn = rows(store, "SELECT d.position, o.position AS row FROM draws d JOIN origins o USING (sample_id)")
    assert drawn and all(row["position"] == row["row"] for row in drawn)


def test_a_curriculum_orders_the_answers_of_its_runs(store: Store, pool: Artifact, reading: dict[str, Any]) -> None:
    train(store, reading, "run")
    ordered = make(store, "curriculum", name="ordered", runs=["run"])
    assert ordered.rows == ANSWERS and ordered.summary["without a value"].startswith("0")
    assert rows(store, UNKNOWN.format(table="subsets")) == [{"n": 0}]


def test_an_evaluation_measures_every_answer_and_a_column_only_the_last(
    store: Store, tmp_path: Path, reading: dict[str, Any]
) -> None:
    held = [{**row, "answer": row["messages"][-1]["content"]} for row in ROWS[:6]]
    make(store, "ingest", name="held", data=[write_rows(tmp_path / "held.jsonl", held)])
    values = {"pool": "held", "metric": ["exact_match"], "max_new_tokens": 2, **reading}
    make(store, "evaluate", name="each", **values)
    make(store, "evaluate", name="last", answer_column="answer", **values)
    counts = rows(store, "SELECT evaluation, metric, samples FROM evaluations WHERE grouped_by IS NULL ORDER BY ALL")
    assert [tuple(row.values()) for row in counts] == [
        ("each", "exact_match", 12),
        ("each", "loss", 12),
        ("last", "exact_match", 6),
        ("last", "loss", 12),
    ]
    references = """SELECT reference, turn, position FROM answers JOIN origins USING (sample_id, position)
                    WHERE metric = 'exact_match' AND evaluation = 'each'"""
    for row in rows(store, references):
        turn = 1 if row["turn"] is None else row["turn"]
        assert row["reference"] == ROWS[row["position"]]["messages"][turn]["content"]


def test_explicit_options_decide_and_are_in_the_fingerprint(
    store: Store, pool: Artifact, features: Artifact, reading: dict[str, Any]
) -> None:
    whole = make(store, "embed", name="whole", pool="pool", turns="whole", **reading)
    every = make(store, "embed", name="every", pool="pool", turns="expand", **reading)
    assert len({features.fingerprint, whole.fingerprint, every.fingerprint}) == 3
    assert whole.rows == 6 and every.rows == ANSWERS
    assert rows(store, "SELECT count(*) n FROM rejects WHERE artifact = 'whole'") == [{"n": 12}]


def test_auto_has_the_fingerprint_of_older_artifacts_where_no_conversation_has_several_answers(
    store: Store, pool: Artifact, tmp_path: Path, reading: dict[str, Any]
) -> None:
    single = make(store, "ingest", name="single", data=[write_rows(tmp_path / "single.jsonl", ROWS[::3])])
    assert have_several_answers([pool]) and not have_several_answers([single])
    made = make(store, "embed", name="made", pool="single", turns="whole", **reading)
    assert make(store, "embed", name="found", pool="single", **reading).fingerprint == made.fingerprint
    assert make(store, "embed", name="other", pool="single", turns="expand", **reading).fingerprint != made.fingerprint


def test_a_config_from_before_the_option_reads_whole_conversations_and_keeps_its_fingerprint(tiny: str) -> None:
    config = EmbedConfig(name="features", pool="pool", model=tiny, turns="whole")
    old = {key: value for key, value in config.model_dump().items() if key != "turns"}
    assert recorded_config("embed", old) == config
    assert "turns" not in config.identity()
    assert EmbedConfig(name="features", pool="pool", model=tiny).identity()["turns"] == "auto"
