"""`curate subset`: members from queries, files and other subsets, against lists; what cannot be used is an error."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import Artifact, make
from curate.errors import ConfigError, CurateError, DataError
from curate.store import Store
from tests.support.exports import ingest
from tests.support.fake_runs import POOL, N, ids_of, listed, store_of

ALL = "SELECT sample_id FROM samples WHERE pool = 'pool'"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_of(tmp_path_factory.mktemp("subset"))


@pytest.fixture
def store(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store(shutil.copytree(made, tmp_path / "store"))


def subset(store: Store, name: str = "c", **values: Any) -> Artifact:
    return make(store, "subset", name=name, pool="pool", **values)


def kept(store: Store, name: str = "c") -> list[str]:
    """Return the ids of a subset in order; its table and its records must be the same."""
    rows = store.query('SELECT * FROM subsets WHERE subset = $name ORDER BY "rank"', {"name": name})
    table = store.get(name).table()
    assert rows["sample_id"].to_pylist() == table["sample_id"].to_pylist()
    assert rows["rank"].to_pylist() == list(range(len(rows)))
    return table["sample_id"].to_pylist()


def of(store: Store, name: str, *numbers: int) -> list[str]:
    ids = [ids_of(store)[n] for n in numbers]
    Path(f"{name}.txt").write_text("\n".join(ids) + "\n\n")
    subset(store, name, ids=f"{name}.txt")
    return ids


def test_a_query_gives_samples_order_weight_and_score_and_is_in_the_config(store: Store) -> None:
    sql = f"SELECT sample_id, position + 1 AS weight, -position AS score FROM ({ALL.replace('id', 'id, position', 1)}) "
    sql += "WHERE position < 9 ORDER BY position DESC"
    made = subset(store, sql=sql)
    assert kept(store) == ids_of(store)[8::-1] and made.rows == 9 and made.config["sql"] == sql
    assert [row["weight"] for row in listed_of(store)] == [9.0, 8, 7, 6, 5, 4, 3, 2, 1]
    assert [row["score"] for row in listed_of(store)] == [-8.0, -7, -6, -5, -4, -3, -2, -1, 0]
    assert made.inputs["pool"] == store.get("pool").fingerprint and made.summary["weights"] == "1 to 9"
    assert subset(store, "same", sql=sql).fingerprint == made.fingerprint
    assert subset(store, "other", sql=sql + " LIMIT 8").fingerprint != made.fingerprint


def listed_of(store: Store, name: str = "c") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = store.get(name).table().to_pylist()
    return rows


def test_the_same_text_with_another_answer_is_another_subset(store: Store) -> None:
    sql = "SELECT DISTINCT sample_id FROM subsets WHERE subset LIKE 'a%' ORDER BY 1"
    of(store, "a1", 0, 1)
    first = subset(store, "first", sql=sql)
    of(store, "a2", 5)
    second = subset(store, "second", sql=sql)
    assert first.fingerprint != second.fingerprint and (first.rows, second.rows) == (2, 3)


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "csv", "parquet"])
def test_a_file_gives_samples_and_weights(store: Store, suffix: str) -> None:
    ids = [ids_of(store)[n] for n in (7, 2, 11)]
    rows = [{"sample_id": sample_id, "weight": n / 2} for n, sample_id in enumerate(ids)]
    path = Path(f"keep.{suffix}")
    if suffix == "txt":
        path.write_text("\ufeff" + "\r\n".join(ids) + "\n\n", encoding="utf-8")
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["weight", "sample_id"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    subset(store, ids=str(path))
    assert kept(store) == ids
    assert [row["weight"] for row in listed_of(store)] == ([None] * 3 if suffix == "txt" else [0, 0.5, 1])


def test_union_and_minus_are_those_of_lists(store: Store) -> None:
    a, b, c = of(store, "a", 3, 1, 4), of(store, "b", 1, 5, 9), of(store, "m", 4, 9, 20)
    made = subset(store, base=["a"], union=["b"], minus=["m"])
    assert kept(store) == [a[0], a[1], b[1]] and made.summary["left out by --minus"] == 2
    subset(store, "u", union=["b", "a"])
    assert kept(store, "u") == list(dict.fromkeys([*b, *a]))
    subset(store, "s", sql=f"{ALL} ORDER BY position LIMIT 5", union=["b"], minus=["a"])
    assert kept(store, "s") == [each for each in [*ids_of(store)[:5], *b] if each not in a and each not in b[:1]]
    assert not set(c) & set(kept(store))


def test_subsets_are_also_selections_curricula_and_exports_by_sql_but_not_of_runs(store: Store) -> None:
    make(store, "select", name="few", pool="pool", method="random", budget=4)
    make(store, "curriculum", name="order", runs=["a"], rounds=2)
    make(store, "export", name="sent", pool="pool", sql=f"{ALL} ORDER BY position LIMIT 2", to="sent")
    for name in ("few", "order", "sent"):
        subset(store, f"of-{name}", base=[name])
    assert kept(store, "of-few") == store.get("few").table()["sample_id"].to_pylist()
    whole = [row["sample_id"] for row in listed(store, "order") if row["epoch"] == 2]
    assert kept(store, "of-order") == whole
    assert kept(store, "of-sent") == ids_of(store)[:2]
    make(store, "export", name="ran", run="a", to="ran")
    with pytest.raises(DataError, match="'ran' has the samples that a run kept"):
        subset(store, "no", base=["ran"])


def test_an_export_has_the_query_of_its_subset_in_its_card(store: Store) -> None:
    sql = f"{ALL} ORDER BY position LIMIT 3"
    subset(store, sql=sql)
    make(store, "export", name="out", subset="c", file_format="jsonl", to="out")
    rows = [json.loads(line) for line in Path("out/train.jsonl").read_text().splitlines()]
    assert [row["instruction"] for row in rows] == [row["instruction"] for row in POOL[:3]]
    assert f"returned:\n\n```sql\n{sql}\n```" in Path("out/README.md").read_text()


def test_training_takes_a_subset_and_an_export_by_sql(store: Store, tiny: str) -> None:
    sql = "SELECT sample_id, 1 AS weight FROM samples WHERE pool = 'pool' ORDER BY position DESC LIMIT 4"
    subset(store, sql=sql)
    make(store, "export", name="sent", pool="pool", sql=sql, to="sent")
    expected = ids_of(store)[:-5:-1]
    for name in ("c", "sent"):
        options = {"selector": "full", "candidates": 2, "max_steps": 2, "max_length": 64, "sequence": True}
        make(store, "train", name=f"on-{name}", pool="pool", subset=name, model=tiny, **options)
        seen = store.query("SELECT sample_id FROM ledger WHERE run = $run ORDER BY step, slot", {"run": f"on-{name}"})
        assert seen["sample_id"].to_pylist() == expected


BAD_SQL = {
    "SELECT 1 AS n": "The query must have one column sample_id, but the columns are n",
    "SELECT NULL AS sample_id": "The query has 1 rows without a sample_id",
    "SELECT 7 AS sample_id": r"ids that are not text \(int",
    f"{ALL} AND false": "The query names no sample",
    f"{ALL} UNION ALL {ALL} ORDER BY 1": f"The query names {N} samples again, first [0-9a-f]{{32}}",
    "SELECT unnest(['x', 'y']) AS sample_id": "2 of 2 sample_ids are not in the pool 'pool': x, y",
    ALL.replace("id", "id, -1 AS weight", 1): f"{N} weights that cannot be used, first -1.0 of [0-9a-f]{{32}}",
    ALL.replace("id", "id, 'nan'::DOUBLE AS weight", 1): f"{N} weights that cannot be used, first nan",
    ALL.replace(
        "id", "id, CASE WHEN position > 2 THEN 1 END AS weight", 1
    ): "3 weights that cannot be used, first None",
    ALL.replace("id", "id, 0 AS weight", 1): "only weights of 0",
    ALL.replace("id", "id, 'x' AS weight", 1): "a column weight that is not of numbers",
    f"{ALL} ORDER BY random()": "The query returns other samples, or another order",
    "DROP TABLE samples": "only",
}


@pytest.mark.parametrize("sql", BAD_SQL)
def test_a_query_that_cannot_be_used_is_an_error_and_the_store_keeps_what_it_has(store: Store, sql: str) -> None:
    before = subset(store, sql=f"{ALL} ORDER BY position")
    with pytest.raises(CurateError, match=BAD_SQL[sql]) as error:
        subset(store, sql=sql)
    assert "\n" not in str(error.value).strip() or sql.startswith("DROP")
    assert store.get("c").fingerprint == before.fingerprint and kept(store) == ids_of(store)


BAD_FILES = {
    "a.txt": ("x\nx\n", r"a\.txt names 1 samples again, first x"),
    "b.txt": ("nothing\n", "1 of 1 sample_ids are not in the pool 'pool': nothing"),
    "c.txt": ("\n\n", r"c\.txt names no sample"),
    "d.jsonl": ('{"sample_id": 7}\n', "1 ids that are not text, first 7"),
    "e.jsonl": ('{"sample_id": "x", "weight": "much"}\n', "a weight that is no number: much"),
    "f.jsonl": ('{"sample_id": "x"}\n{\n', r"f\.jsonl, row 2, cannot be read"),
    "g.csv": ("id\nx\n", r"g\.csv must have one column sample_id, but the columns are id"),
    "h.csv": ("sample_id,weight\nx,nan\n", "1 weights that cannot be used, first nan of x"),
    "i.parquet": ("no parquet", r"i\.parquet cannot be read"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_used_is_an_error(store: Store, name: str) -> None:
    content, message = BAD_FILES[name]
    Path(name).write_text(content)
    with pytest.raises(DataError, match=message):
        subset(store, ids=name)
    Path("bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        subset(store, ids="bytes.txt")
    with pytest.raises(DataError, match=r"^There is no file missing\.txt: check the path\.$"):
        subset(store, ids="missing.txt")


def test_options_that_do_not_go_together_are_an_error(store: Store) -> None:
    of(store, "a", 1, 2)
    with pytest.raises(ConfigError, match="only one of --sql, --ids and --from"):
        subset(store, sql=ALL, base=["a"])
    for name, value in {"timeout": 3.0, "memory": "1GB", "allow_files": True}.items():
        with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} limits a query: .* only with --sql"):
            subset(store, base=["a"], **{name: value})
    with pytest.raises(ConfigError, match="Nothing names the samples to keep"):
        subset(store)
    with pytest.raises(DataError, match="Nothing is left of the 2 samples"):
        subset(store, base=["a"], minus=["a"])
    subset(store, "heavy", sql=ALL.replace("id", "id, 2 AS weight", 1))
    with pytest.raises(DataError, match="'heavy' has weights, but not so the start"):
        subset(store, base=["a"], union=["heavy"])
    ingest(store, POOL[:5], name="small")
    make(store, "subset", name="elsewhere", pool="small", sql="SELECT sample_id FROM samples WHERE pool = 'small'")
    with pytest.raises(DataError, match="'elsewhere' is not of the pool 'pool'"):
        subset(store, base=["a"], union=["elsewhere"])
