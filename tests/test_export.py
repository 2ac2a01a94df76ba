"""`curate export`: what was chosen, in order, in the asked format, with a card that says how it came about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
import yaml

from curate.config import Config, Ref
from curate.errors import ArtifactNotFound, ConfigError, CurateError, DataError, QueryError
from curate.formats import EXPORT_FORMATS
from curate.stages import make
from curate.stages.export import ExportConfig, Format
from curate.stages.pools import pool_samples
from curate.store import Artifact, Store

SHARED = Path(__file__).parents[1] / "../shared/data"
ROWS = [{"instruction": f"q{n}", "input": "", "output": f"a{n}", "domain": ["even", "odd"][n % 2]} for n in range(6)]
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


class RunConfig(Config):
    """As much of a run's config as an export reads."""

    pool: Ref
    model: str = "me/tiny"
    selector: str = "uds"
    selector_args: dict[str, float] = {"diversity_weight": 0.5}  # noqa: RUF012
    seed: int = 7


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store("store")


def ingest(store: Store, rows: Sequence[Mapping[str, Any]] = ROWS, name: str = "pool", **options: Any) -> list[str]:
    """A pool of these rows; its sample ids in order."""
    path = Path(f"{name}.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pool = make(store, "ingest", data=str(path), name=name, **options)
    return [sample.sample_id for _, sample in pool_samples(pool)]


def train(store: Store, ids: Sequence[str], kept: Sequence[Sequence[int]], name: str = "uds") -> Artifact:
    """A run over `ids` that kept, step by step, these; everything is a candidate in every step."""
    rows = [
        {"step": step, "rank": 0, "slot": slot, "sample_id": ids[n], "position": n, "kept": n in chosen}
        | {"score": float(10 * step + n), "weight": None, "loss": float(n), "tokens": 5, "target_tokens": 2}
        | {"parts": [("utility", n / 2)]}
        for step, chosen in enumerate(kept, start=1)
        for slot, n in enumerate([*chosen, *(n for n in range(len(ids)) if n not in chosen)])
    ]
    schema = pa.schema(
        {"step": pa.int64(), "rank": pa.int32(), "slot": pa.int32(), "sample_id": pa.string(), "position": pa.int64()}
        | {"kept": pa.bool_(), "score": pa.float64(), "weight": pa.float64(), "loss": pa.float64()}
        | {"tokens": pa.int32(), "target_tokens": pa.int32(), "parts": pa.map_(pa.string(), pa.float64())}
    )
    table = pa.Table.from_pylist(rows, schema=schema)
    config = RunConfig(name=name, pool="pool", seed=7 if name == "uds" else len(name))
    return store.make(
        "train", lambda draft: draft.add("ledger", table), config, {"pool": store.get("pool").fingerprint}
    )


def export(store: Store, **options: Any) -> Artifact:
    return make(store, "export", **{"name": "out", **options})


def loaded(folder: str = "exports/out") -> list[dict[str, Any]]:
    return list(datasets.load_from_disk(folder))


def front_matter(folder: str = "exports/out") -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(Path(folder, "README.md").read_text().split("---\n")[1])
    return values


# Choosing


def test_a_run_exports_what_it_kept_in_the_order_it_was_first_kept(store: Store) -> None:
    ids = ingest(store)
    train(store, ids, [[4, 1], [1, 0]])
    artifact = export(store, run="uds", columns=["times_kept", "score", "utility", "sample_id"])
    assert loaded() == [
        ROWS[4] | {"times_kept": 1, "score": 14.0, "utility": 2.0, "sample_id": ids[4]},
        ROWS[1] | {"times_kept": 2, "score": 16.0, "utility": 0.5, "sample_id": ids[1]},
        ROWS[0] | {"times_kept": 1, "score": 20.0, "utility": 0.0, "sample_id": ids[0]},
    ]
    assert artifact.rows == 3
    facts = store.query('SELECT sample_id, "rank", score, weight FROM subsets WHERE subset = \'out\' ORDER BY "rank"')
    assert facts["sample_id"].to_pylist() == [ids[4], ids[1], ids[0]]
    assert facts["score"].to_pylist() == [14.0, 16.0, 20.0] and facts["weight"].null_count == 3
    assert export(store, run="uds", min_times_kept=2, name="twice").rows == 1
    with pytest.raises(DataError, match="kept no sample 3 times"):
        export(store, run="uds", min_times_kept=3, name="thrice")


def test_sql_exports_in_the_order_of_the_query_each_sample_once(store: Store) -> None:
    ids = ingest(store)
    sql = (
        "SELECT sample_id, position / 2 AS score, 'x' AS why FROM samples WHERE metadata->>'domain' = 'odd' "
        "UNION ALL BY NAME SELECT sample_id, 9 AS score, 'again' AS why FROM samples WHERE position = 1 "
        "ORDER BY score DESC"
    )
    artifact = export(store, sql=sql, columns=["why", "source"])
    assert [(row["instruction"], row["why"]) for row in loaded()] == [("q1", "again"), ("q5", "x"), ("q3", "x")]
    assert {row["source"] for row in loaded()} == {"pool"}
    facts = store.query('SELECT sample_id, score FROM subsets ORDER BY "rank"').to_pylist()
    assert [(fact["sample_id"], fact["score"]) for fact in facts] == [(ids[1], 9.0), (ids[5], 2.5), (ids[3], 1.5)]
    assert artifact.inputs["pool"] == store.get("pool").fingerprint


def test_the_answer_of_the_query_counts_and_not_only_its_text(store: Store) -> None:
    ids = ingest(store)
    train(store, ids, [[0]], name="one")
    sql = "SELECT DISTINCT sample_id FROM ledger WHERE kept ORDER BY sample_id"
    first = export(store, sql=sql, pool="pool")
    assert export(store, sql=sql, pool="pool").fingerprint == first.fingerprint
    train(store, ids, [[3], [2]], name="three")
    second = export(store, sql=sql, pool="pool")
    assert second.fingerprint != first.fingerprint
    assert {row["instruction"] for row in loaded()} == {"q0", "q2", "q3"}


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({}, ConfigError, "either --run or --sql"),
        ({"run": "uds", "sql": "SELECT 1"}, ConfigError, "either --run or --sql"),
        ({"run": "udz"}, ArtifactNotFound, "Did you mean 'uds'"),
        ({"run": "pool"}, ArtifactNotFound, "made by ingest"),
        ({"sql": "SELECT 1 AS x"}, DataError, "must give a column sample_id; it gives x"),
        ({"sql": "SELECT nothing FROM samples"}, QueryError, "nothing"),
        ({"sql": "SELECT sample_id FROM samples WHERE false"}, DataError, "chooses no sample"),
        (
            {"sql": "SELECT 'x' AS sample_id UNION SELECT 'y'"},
            DataError,
            r"2 of 2 sample_ids are not in the pool 'pool'",
        ),
        ({"run": "uds", "columns": ["scoer"]}, ConfigError, "Did you mean 'score'"),
        (
            {"sql": "SELECT sample_id, 1 AS input FROM samples", "columns": ["input"]},
            ConfigError,
            "'input' of their own",
        ),
        ({"run": "uds", "format": "messages", "columns": ["messages"]}, ConfigError, "'messages' of their own"),
    ],
)
def test_what_cannot_be_exported_says_why(
    store: Store, options: dict[str, Any], error: type[CurateError], said: str
) -> None:
    train(store, ingest(store), [[0]])
    with pytest.raises(error, match=said):
        export(store, **options)
    assert not Path("exports").exists()


def test_columns_of_the_rows_may_go_with_any_format_and_are_there_once(store: Store) -> None:
    ingest(store)
    sql = "SELECT sample_id FROM samples ORDER BY position LIMIT 1"
    export(store, sql=sql, format="messages", columns=["domain"])
    assert loaded()[0].keys() == {"messages", "domain"} and loaded()[0]["domain"] == "even"
    export(store, sql=sql, columns=["domain"])
    assert loaded() == ROWS[:1]


def test_with_several_pools_a_query_must_say_which(store: Store) -> None:
    ingest(store)
    ingest(store, ROWS[:2], name="other")
    with pytest.raises(ArtifactNotFound, match=r"several pools \(other, pool\): give --pool"):
        export(store, sql="SELECT DISTINCT sample_id FROM samples")
    assert export(store, sql="SELECT sample_id FROM samples WHERE pool = 'other'", pool="other").rows == 2


# Formats


@pytest.mark.parametrize("file_format", ["hf", "jsonl", "parquet"])
def test_original_columns_come_out_as_they_went_in(store: Store, file_format: str) -> None:
    rows = [
        {"id": 1, "messages": CHAT, "tags": ["a", "b"], "note": None, "meta": {"x": 1.5}},
        {"id": 2, "messages": CHAT[:1] * 2 + CHAT[1:], "tags": [], "note": "n", "meta": {"x": 2.5}},
    ]
    ingest(store, rows)
    export(store, sql="SELECT sample_id FROM samples ORDER BY position", file_format=file_format)
    if file_format == "hf":
        assert loaded() == rows
    else:
        back = datasets.load_dataset("exports/out", split="train", cache_dir="cache")
        assert list(back) == rows
    assert make(store, "ingest", data="exports/out", name="again").rows == 2
    ids = [[sample.sample_id for _, sample in pool_samples(store.get(name))] for name in ("pool", "again")]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("name", ["messages", "prompt-completion", "alpaca", "sharegpt"])
def test_every_format_is_read_again_as_the_same_conversations(store: Store, name: str) -> None:
    ids = ingest(store)
    export(store, sql="SELECT sample_id FROM samples ORDER BY position", format=name)
    make(store, "ingest", data="exports/out", name="again")
    assert [sample.sample_id for _, sample in pool_samples(store.get("again"))] == ids
    assert set(store.get("again").summary["formats"]) == {name}


def test_tool_calls_survive_and_are_no_column_where_there_are_none(store: Store) -> None:
    called = [CHAT[0], {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "content": "1"}]
    ids = ingest(store, [{"messages": [*called, CHAT[1]], "tools": [CALL]}, {"messages": CHAT}])
    export(store, sql="SELECT sample_id FROM samples ORDER BY position", format="messages")
    assert loaded()[0]["messages"][1]["tool_calls"] == [CALL] and loaded()[0]["tools"] == [CALL]
    make(store, "ingest", data="exports/out", name="again")
    assert [sample.sample_id for _, sample in pool_samples(store.get("again"))] == ids
    export(store, sql="SELECT sample_id FROM samples WHERE position = 1", pool="pool", format="messages", name="plain")
    assert loaded("exports/plain") == [{"messages": CHAT}]


def test_columns_of_mixed_types_need_jsonl(store: Store) -> None:
    rows = [{"text": "a", "id": 1}, {"text": "b", "id": "one"}, {"text": "c", "id": 2**70}]
    ingest(store, rows)
    sql = "SELECT sample_id FROM samples ORDER BY position"
    with pytest.raises(DataError, match=r"'id' holds values of more than one type.*--as jsonl"):
        export(store, sql=sql)
    export(store, sql=sql, file_format="jsonl")
    assert [json.loads(line) for line in Path("exports/out/train.jsonl").read_text().splitlines()] == rows


def test_the_config_offers_exactly_the_formats_there_are() -> None:
    assert Format.__args__ == EXPORT_FORMATS
    flag = ExportConfig.model_fields["file_format"].json_schema_extra
    assert flag == {"flag": "as"}


# Delivery


def test_exporting_again_costs_a_copy_and_mends_what_is_gone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from curate.stages import export as stage

    ingest(store)
    sql = "SELECT sample_id FROM samples ORDER BY position"
    artifact = export(store, sql=sql, to="a/b")
    monkeypatch.setattr(stage, "run", lambda *_: pytest.fail("it is there already"))
    Path("a/b/README.md").unlink()
    assert export(store, sql=sql, to="a/b") == artifact and Path("a/b/README.md").exists()
    export(store, sql=sql, to="c")
    assert loaded("a/b") == loaded("c") == ROWS
    assert sorted(path.name for path in Path("a").iterdir()) == ["b"], "nothing half-made is left beside it"


def test_a_folder_with_something_else_in_it_is_left_alone(store: Store) -> None:
    ingest(store)
    sql = "SELECT sample_id FROM samples ORDER BY position"
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("ten years")
    with pytest.raises(DataError, match=r"mine holds thesis\.txt.*--overwrite"):
        export(store, sql=sql, to="mine")
    Path("file").write_text("x")
    with pytest.raises(DataError, match="file holds file"):
        export(store, sql=sql, to="file")
    export(store, sql=sql, to="other")
    with pytest.raises(DataError, match="other is the export 'out'"):
        export(store, sql=sql, to="other", name="different")
    Path("other/notes.md").write_text("mine")
    with pytest.raises(DataError, match=r"other holds notes\.md"):
        export(store, sql=sql, to="other")
    assert Path("mine/thesis.txt").read_text() == "ten years"
    for folder in ("mine", "file", "other"):
        export(store, sql=sql, to=folder, overwrite=True)
        assert loaded(folder) == ROWS
    assert not Path("mine/thesis.txt").exists()


def test_a_new_answer_replaces_the_export_of_the_same_name(store: Store) -> None:
    ingest(store)
    for limit in (4, 2):
        export(store, sql=f"SELECT sample_id FROM samples ORDER BY position LIMIT {limit}")
        assert loaded() == ROWS[:limit]


def test_the_hub_is_asked_only_when_told_to_and_gets_the_card(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    calls: list[tuple[Any, ...]] = []
    api = huggingface_hub.HfApi
    monkeypatch.setattr(api, "create_repo", lambda self, repo, **options: calls.append(("create", repo, options)))
    monkeypatch.setattr(api, "upload_file", lambda self, **options: calls.append(("file", options["path_in_repo"])))
    monkeypatch.setattr(api, "upload_folder", lambda self, **options: calls.append(("folder", options["repo_id"])))
    monkeypatch.setattr(
        datasets.Dataset, "push_to_hub", lambda self, repo, **options: calls.append(("push", repo, len(self)))
    )
    ingest(store)
    sql = "SELECT sample_id FROM samples"
    export(store, sql=sql)
    assert calls == []
    export(store, sql=sql, push_to_hub="me/out")
    created = ("create", "me/out", {"repo_type": "dataset", "private": True, "exist_ok": True})
    assert calls == [created, ("file", "README.md"), ("push", "me/out", 6)]
    calls.clear()
    export(store, sql=sql, push_to_hub="me/out", file_format="jsonl")
    assert calls == [created, ("folder", "me/out")]

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no token\nand more")

    monkeypatch.setattr(api, "create_repo", refuse)
    with pytest.raises(DataError, match=r"did not take me/out: no token\. Check"):
        export(store, sql=sql, push_to_hub="me/out")


# The card


def test_the_card_of_a_run_says_how_it_came_about(store: Store) -> None:
    ids = ingest(store, licence="cc-by-nc-4.0")
    made_by = train(store, ids, [[4, 1], [1, 0]])
    export(store, run="uds")
    values = front_matter()
    assert values["license"] == "cc-by-nc-4.0" and values["size_categories"] == ["n<1K"]
    assert values["tags"] == ["curate", "data-selection", "uds"]
    text = Path("exports/out/README.md").read_text()
    pool = store.get("pool")
    for said in (
        made_by.fingerprint,
        pool.fingerprint,
        *pool.inputs.values(),
        "me/tiny",
        "| seed | 7 |",
        "diversity_weight",
    ):
        assert said in text
    assert "| pool | 3 | 100.0% | cc-by-nc-4.0 |" in text
    assert "3 samples of the pool `pool` (6 rows): those that the run `uds` kept" in text


def test_the_configs_in_the_card_are_valid_and_hold_no_path_of_this_machine(store: Store, tmp_path: Path) -> None:
    from curate.stages import module_of

    ingest(store, [{"text": "a"}], name="first")
    make(store, "ingest", data=[f"web={tmp_path}/first.jsonl"], name="pool")
    sql = "SELECT sample_id FROM samples WHERE position < 10"
    export(store, sql=sql, pool="pool", to=str(tmp_path / "out"))
    text = (tmp_path / "out/README.md").read_text()
    assert str(tmp_path) not in text and sql in text
    blocks = [yaml.safe_load(part.split("```")[0]) for part in text.split("```yaml\n")[1:]]
    assert [block["name"] for block in blocks] == ["pool", "out"]
    for stage, block in zip(("ingest", "export"), blocks, strict=True):
        module_of(stage).CONFIG(**block)
    assert blocks[0]["data"] == ["web=first.jsonl"]


@pytest.mark.parametrize(
    ("licence", "said"),
    [
        (None, {"license": "unknown"}),
        ("a=mit", {"license": "unknown"}),
        ("a=mit,b=apache-2.0", {"license": ["apache-2.0", "mit"]}),
        ("My own, ask me", {"license": "other", "license_name": "My own, ask me"}),
    ],
)
def test_licences_of_all_sources_are_in_the_front_matter(
    store: Store, licence: str | None, said: dict[str, Any]
) -> None:
    for name in "ab":
        Path(f"{name}.jsonl").write_text(json.dumps({"text": name}) + "\n")
    make(store, "ingest", data=["a.jsonl", "b.jsonl"], licence=licence, name="pool")
    export(store, sql="SELECT sample_id FROM samples", file_format="parquet")
    values = front_matter()
    assert {key: values[key] for key in said} == said
    assert values["configs"][0]["data_files"] == [{"split": "train", "path": "train.parquet"}]


@pytest.mark.skipif(not (SHARED / "pool6k").exists(), reason="the shared data is not here")
def test_a_real_pool_comes_out_as_it_went_in(store: Store) -> None:
    path = str(SHARED / "pool6k/pool.parquet")
    pool = make(store, "ingest", data=path, name="pool")
    export(store, sql="SELECT sample_id FROM samples ORDER BY position")
    first = {sample.sample_id: sample.original for _, sample in reversed(list(pool_samples(pool)))}
    assert len(loaded()) == pool.summary["distinct"]
    assert sorted(row["id"] for row in loaded()) == sorted(str(row["id"]) for row in first.values())
    assert loaded()[0] == datasets.Dataset.from_parquet(path, cache_dir="cache")[0]
