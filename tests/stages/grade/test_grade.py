"""`curate grade`: each fault is a flag, other commands take the columns, and bad files are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate import Artifact, make
from curate.errors import ArtifactNotFound, ConfigError, CurateError, DataError, StoreError
from curate.stages import stage_of
from curate.stages.grade.grading import COLUMNS, FLAGS
from curate.stages.grade.neighbours import Answers, _means
from curate.stages.grade.signals import language, personal
from curate.stages.grade.signals.measures import words_of
from curate.stages.grade.stage import NEEDS
from curate.store import Store
from curate.store.catalog.objects import schema_columns
from tests.support.exports import ingest

PROSE = "The river runs through the town. People walk along it in the evening, and children play on its banks."
ROWS = [
    ("Tell me about the river.", PROSE),
    ("What is 6 times 7?", "42"),
    ("What is 6 times 7?", "43"),
    ("tell  me about the RIVER.", PROSE.upper()),
    ("Say hello.", "say hello."),
    ("Write a letter.", "Dear [Your Name],\nall is well."),
    ("See the picture.", "I'm sorry, but I cannot see pictures."),
    ("Tell me about the sea.", f"{PROSE} The evening sun is"),
    ("Who lives in the old house?", "Write to jane.doe@uni-bonn.de, she knows."),
    ("Sing.", "la la la la la la " * 20),
]
EXPECTED = ["", "contradiction", "contradiction", "copy", "echo", "placeholder", "refusal", "unfinished", "pii",
            "repeating"]  # fmt: skip
Call = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store(tmp_path / "store")


@pytest.fixture
def ids(store: Store) -> list[str]:
    return ingest(store, [{"instruction": prompt, "input": "", "output": answer} for prompt, answer in ROWS])


def grade(store: Store, name: str = "g", **values: Any) -> Artifact:
    return make(store, "grade", name=name, pool="pool", **values)


def columns(store: Store, name: str = "g") -> dict[str, dict[str, Any]]:
    rows = store.query("SELECT * FROM features WHERE features = $name", {"name": name}).to_pylist()
    return {row["sample_id"]: row for row in rows}


def shown(artifact: Artifact) -> str:
    stage = stage_of("grade")
    assert stage.show is not None
    return stage.show(stage.config(**artifact.config), artifact)


def test_the_columns_are_those_of_the_table() -> None:
    table = {column: kind for each, column, kind in schema_columns() if each == "features"}
    kinds = {pa.string(): "VARCHAR", pa.int32(): "INTEGER", pa.float64(): "DOUBLE", pa.bool_(): "BOOLEAN"}
    for field in COLUMNS:
        assert table[field.name] == kinds.get(field.type, "MAP(VARCHAR, DOUBLE)")


def test_each_fault_is_a_flag_of_its_sample_and_sound_rows_have_none(store: Store, ids: list[str]) -> None:
    pytest.importorskip("phonenumbers")
    made = grade(store)
    rows = columns(store)
    assert [rows[each]["flags"] for each in ids] == EXPECTED
    assert [rows[each]["bad"] for each in ids] == [int(bool(each)) for each in EXPECTED]
    assert made.rows == len(ids) and made.summary["with flags"] == 9
    first = rows[ids[0]]
    assert (first["answer_words"], first["prompt_words"]) == (len(words_of(PROSE)), 5)
    assert first["length_ratio"] == pytest.approx(len(words_of(PROSE)) / 5) and first["repetition"] is None
    assert (first["copies"], first["other_answers"], first["in_prompt"]) == (1, 0, False)
    assert (rows[ids[1]]["copies"], rows[ids[1]]["other_answers"], rows[ids[1]]["compression"]) == (0, 1, None)
    assert rows[ids[4]]["in_prompt"] and rows[ids[8]]["pii_kinds"] == "email" and rows[ids[8]]["pii"] == 1
    assert first["loss"] is None and first["scores"] is None


def test_the_same_pool_gives_the_same_records_and_a_repeated_sample_has_one(store: Store) -> None:
    texts = [{"instruction": "q", "output": answer} for answer in ("a", "b", "a")]
    ids = ingest(store, texts)
    made = grade(store, signals=["copies", "rules"])
    rows = columns(store)
    assert made.rows == 2 and len(rows) == 2
    assert (rows[ids[0]]["copies"], rows[ids[1]]["copies"]) == (1, 0)
    assert rows[ids[0]]["flags"] == "contradiction" and rows[ids[0]]["answer_words"] is None
    assert grade(store, "again", signals=["rules", "copies"]).fingerprint != ""
    again = {key: {**row, "features": "g"} for key, row in columns(store, "again").items()}
    assert again == rows


def test_empty_answers_texts_and_calls_of_tools(store: Store) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "\u200b"}]},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [call]}]},
        {"text": PROSE},
    ]
    found = []
    for number, row in enumerate(rows):
        (sample_id,) = ingest(store, [row], f"pool{number}")
        make(store, "grade", name=f"g{number}", pool=f"pool{number}", signals=["lengths", "rules", "copies"])
        found.append(columns(store, f"g{number}")[sample_id])
    assert [row["flags"] for row in found] == ["empty", "", ""]
    assert (
        found[2]["prompt_words"] == 0
        and found[2]["length_ratio"] is None
        and found[2]["prompt_overlap"] is None
        and found[2]["answer_words"] > 10
    )


def test_personal_data_is_in_no_file_of_the_grade_and_not_on_the_screen(store: Store, ids: list[str]) -> None:
    pytest.importorskip("phonenumbers")
    made = grade(store)
    text = shown(made)
    assert "j***" in text and "jane.doe" not in text
    for file in made.path.rglob("*"):
        if file.is_file():
            content = pq.read_table(file).to_pylist() if file.suffix == ".parquet" else file.read_bytes()
            assert "jane.doe" not in str(content)


@pytest.mark.parametrize("width", [80, 120])
def test_the_screen_has_counts_examples_and_commands_that_can_be_typed(
    store: Store, ids: list[str], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    made = grade(store)
    lines = shown(made).splitlines()
    assert len(lines) <= 40 and max(map(len, lines[:-4])) <= 100
    assert lines[0].startswith("pool: 10 rows, 1 with the text of another; 10 samples graded as 'g'")
    for name in set(EXPECTED) - {"", "pii"}:
        assert sum(line.startswith(f"{name} ") for line in lines) >= 2, name
    assert any(ids[7][:10] in line and "sun is" in line for line in lines)
    (line,) = [line for line in lines if line.startswith("curate subset")]
    sql = line.split('"')[1]
    make(store, "subset", pool="pool", sql=sql, name="good")
    assert store.get("good").table()["sample_id"].to_pylist() == [ids[0]]


def test_a_damaged_result_is_an_error(store: Store, ids: list[str]) -> None:
    made = grade(store, signals=["rules"])
    file = made.files / "grade.json"
    for change in ({"rows": "many"}, {"flags": []}, {"examples": [3]}, {"words": {"prompt": [1]}}, {"rows": 1e400}):
        content = json.loads(file.read_text())
        file.write_text(json.dumps({**content, **change}))
        with pytest.raises(StoreError, match=r"grade\.json is damaged"):
            shown(made)
        file.write_text(json.dumps(content))


def test_what_is_not_installed_is_named_and_makes_another_result(
    store: Store, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = grade(store)
    monkeypatch.setitem(NEEDS, "language", lambda: False)
    monkeypatch.setitem(NEEDS, "pii", lambda: False)
    made = grade(store, "bare")
    assert made.fingerprint != whole.fingerprint
    assert 'not measured: language and pii, whose packages are not installed: pip install "curate-sft[quality]"' in (
        " ".join(shown(made).split())
    )
    assert {row["pii"] for row in columns(store, "bare").values()} == {None}
    with pytest.raises(ConfigError, match=r"--signals pii is not installed: pip install .*\[quality\]"):
        grade(store, "x", signals=["rules", "pii"])
    assert language.is_installed() in (True, False) and personal.is_installed() in (True, False)


def test_scores_are_columns_that_sql_and_training_take(store: Store, ids: list[str]) -> None:
    pq.write_table(pa.table({"sample_id": ids[:8], "judge": [n / 2 for n in range(8)], "n": range(8)}), "s.parquet")
    made = grade(store, signals=["rules"], scores="s.parquet")
    rows = columns(store)
    assert [rows[each]["judge"] for each in ids] == [n / 2 for n in range(8)] + [None, None]
    assert rows[ids[3]]["scores"] == [("judge", 1.5), ("n", 3.0)] and made.summary["scores"] == ["judge", "n"]
    assert "scores: judge of 8 samples; the other 2 have null." in shown(made)
    Path("s.csv").write_text("sample_id,judge\n" + "".join(f"{each},{n / 2}\n" for n, each in enumerate(ids[:8])))
    Path("s.jsonl").write_text("".join(json.dumps({"sample_id": each, "judge": n / 2}) + "\n"
                                       for n, each in enumerate(ids[:8])))  # fmt: skip
    for file in ("s.csv", "s.jsonl"):
        grade(store, "other", signals=["rules"], scores=file)
        assert [columns(store, "other")[each]["judge"] for each in ids] == [rows[each]["judge"] for each in ids]
    make(
        store, "subset", pool="pool", sql="SELECT sample_id FROM features WHERE judge > 3 AND features = 'g'", name="s"
    )
    assert store.get("s").table()["sample_id"].to_pylist() == [ids[7]]


BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "unknown": ([{"sample_id": "f" * 32, "x": 1}], "row 1, has the sample_id f+, which the pool does not have"),
    "twice": ([{"sample_id": 0, "x": 1}, {"sample_id": 0, "x": 2}], r"row 2, has the sample_id \w+ again"),
    "taken": ([{"sample_id": 0, "Loss": 1}], "row 1, has a column Loss, a name that the table features has already"),
    "key": ([{"sample_id": 0, "features": 1}], "a name that the table features has already"),
    "case": ([{"sample_id": 0, "x": 1, "X": 1}], "differs from another only in case"),
    "name": ([{"sample_id": 0, "my score": 1}], "has a column my score: a name has"),
    "nan": ([{"sample_id": 0, "x": 1}, {"sample_id": 1, "x": float("nan")}], "row 2, has a x that is not finite"),
    "inf": ([{"sample_id": 0, "x": float("-inf")}], "not finite"),
    "text": ([{"sample_id": 0, "x": "good"}], "row 1, has a x that is no number: good"),
    "flag": ([{"sample_id": 0, "x": True}], "no number"),
    "no id": ([{"x": 1}], "row 1, has no sample_id that is text"),
    "no row": ([], "has no row"),
    "no column": ([{"sample_id": 0}], "no column besides sample_id"),
    "empty": ([{"sample_id": 0, "x": None, "y": 1}], "no number in the column x"),
}


@pytest.mark.parametrize("case", BAD)
def test_scores_that_cannot_be_joined_are_one_sentence_and_nothing_is_lost(
    case: str, store: Store, ids: list[str]
) -> None:
    rows, message = BAD[case]
    rows = [{k: ids[v] if k == "sample_id" and isinstance(v, int) else v for k, v in row.items()} for row in rows]
    if case in ("nan", "inf"):
        pq.write_table(pa.Table.from_pylist(rows), "s.parquet")
    else:
        Path("s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = {each.fingerprint for each in store.artifacts()}
    with pytest.raises(CurateError, match=message) as raised:
        grade(store, signals=["rules"], scores="s.parquet" if case in ("nan", "inf") else "s.jsonl")
    assert "\n" not in str(raised.value) and "s." in str(raised.value)
    assert {each.fingerprint for each in store.artifacts()} == before and not store.has("g")


def test_agreement_is_the_mean_jaccard_similarity_to_the_nearest_others() -> None:
    rng = np.random.default_rng(0)
    answers = Answers()
    texts = [" ".join(rng.choice(list("abcdefgh"), rng.integers(0, 6))) for _ in range(30)]
    for number, text in enumerate(texts):
        answers.add(str(number), text)
    rows = rng.permutation(30)
    near = np.stack([rng.permutation(30)[:6] for _ in range(30)])
    near[:5, 0] = np.arange(5)
    near[7, 2:] = -1
    words = answers.matrix()
    own = np.arange(30)
    means = _means(rows, near, own, 4, words, np.diff(words.indptr))
    for one in range(30):
        others = [each for each in near[one].tolist() if each not in (-1, one)][:4]
        a = set(texts[rows[one]].split())
        values = [len(a & b) / len(a | b) for each in others if (b := set(texts[rows[each]].split())) and a]
        assert means[one] == pytest.approx(np.mean(values), abs=1e-6) if values else np.isnan(means[one])


def test_no_vectors_are_looked_for_in_a_grade(store: Store, ids: list[str]) -> None:
    grade(store, signals=["lengths"])
    with pytest.raises(ArtifactNotFound, match=r"'g' .* was made by grade, not by embed"):
        make(store, "cluster", features="g", k=2, name="c")
    with pytest.raises(ConfigError, match="--neighbours has an effect only with --features"):
        grade(store, "h", neighbours=3)


def test_flags_are_described_and_the_default_name_is_that_of_the_pool(store: Store, ids: list[str]) -> None:
    assert stage_of("grade").config(pool="pool").name == "pool-grade"
    assert all(FLAGS.values())
    with pytest.raises((ConfigError, DataError, ValueError)):
        stage_of("grade").config(pool="pool", signals=[])


def test_the_command_prints_the_screen_alone_on_stdout(store: Store, ids: list[str]) -> None:
    line = [sys.executable, "-m", "curate", "grade", "--pool", "pool", "--signals", "rules"]
    ran = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("pool: 10 rows") and "made pool-grade (grade)" in ran.stderr
