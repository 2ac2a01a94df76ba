"""Files, folders and datasets are read as rows; an error or a reason names each part that is broken."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from curate.errors import DataError
from curate.formats import read_location
from curate.formats.read import data_files

QUESTION = {"role": "user", "content": "What is 2 + 2?"}
ANSWER = {"role": "assistant", "content": "4"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}


def rows_of(path: Path) -> list[tuple[int, Any]]:
    return [(row.number, row.reason or row.values) for row in read_location(str(path), split="train")]


def test_a_broken_line_of_jsonl_is_a_row_with_a_reason(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "a"}',
        b"",
        b'{"text": ',
        b"[1]",
        b'{"text": "\xff"}',
        b'{"n": ' + b"9" * 5000 + b"}",
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*lines, b"[" * 100_000, b'{"text": "b"}']))
    first = [(1, {"text": "a"}), (3, "not JSON"), (4, "not an object"), (5, "not UTF-8"), (6, "not JSON")]
    assert rows_of(tmp_path / "a.jsonl") == [*first, (7, "nested too deeply"), (8, {"text": "b"})]


@pytest.mark.parametrize(
    "content",
    [
        '[{"text": "a"}, {"text": "b"}]',
        '{"version": 1, "data": [{"text": "a"}, {"text": "b"}]}',
        '{"text": "a"}\n{"text": "b"}\n',
    ],
)
def test_a_json_file_may_be_an_array_an_object_with_one_or_lines(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    assert rows_of(tmp_path / "a.json") == [(1, {"text": "a"}), (2, {"text": "b"})]


def test_a_json_object_that_is_itself_a_conversation_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"messages": [QUESTION, ANSWER]}))
    assert rows_of(tmp_path / "a.json") == [(1, {"messages": [QUESTION, ANSWER]})]


@pytest.mark.parametrize("content", ['[{"text": "a"},', "3", '{"a": [], "b": []}', "[" + "9" * 5000 + "]", "[" * 9999])
def test_a_json_file_that_cannot_be_rows_is_an_error_that_names_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DataError, match=r"a\.json"):
        rows_of(tmp_path / "a.json")


def test_csv_keeps_text_as_text_and_names_the_row_that_is_broken(tmp_path: Path) -> None:
    text = '\ufeffprompt,completion\n"two\nlines",007\n\na,b,c\n"' + "x" * 200_000 + '",y\n'
    (tmp_path / "a.csv").write_text(text, encoding="utf-8")
    assert rows_of(tmp_path / "a.csv") == [
        (1, {"prompt": "two\nlines", "completion": "007"}),
        (2, "wrong number of fields"),
        (3, {"prompt": "x" * 200_000, "completion": "y"}),
    ]
    (tmp_path / "a.tsv").write_text("prompt\tcompletion\na,b\tc\n")
    assert rows_of(tmp_path / "a.tsv") == [(1, {"prompt": "a,b", "completion": "c"})]
    (tmp_path / "b.csv").write_text("prompt,prompt\na,b\n")
    with pytest.raises(DataError, match="twice"):
        rows_of(tmp_path / "b.csv")


@pytest.mark.parametrize(
    "broken",
    ['"never closed,x\ngood,row\n', '"closed late,x\n"good","row"\n', 'x,"a "quoted" word\nmore\n', '"a"b,"c\n'],
)
def test_a_quote_out_of_place_is_an_error_that_names_the_row_and_swallows_no_other(tmp_path: Path, broken: str) -> None:
    (tmp_path / "a.csv").write_text("prompt,completion\nfirst,row\n" + broken)
    with pytest.raises(DataError, match=r"a\.csv, row 2: a quote is out of place"):
        rows_of(tmp_path / "a.csv")


def test_a_row_of_csv_that_is_broken_within_its_line_is_rejected_alone(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt,completion\n"a"b,"c"\ngood,row\nit is 5" long,x\n')
    assert rows_of(tmp_path / "a.csv") == [
        (1, "not CSV"),
        (2, {"prompt": "good", "completion": "row"}),
        (3, {"prompt": 'it is 5" long', "completion": "x"}),
    ]


def test_an_object_that_repeats_a_key_is_rejected_alone(tmp_path: Path) -> None:
    twice, good = '{"text": "a", "meta": {"x": 1, "x": 2}}', '{"text": "b"}'
    (tmp_path / "a.jsonl").write_text(f"{twice}\n{good}\n")
    (tmp_path / "a.json").write_text(f"[{twice}, {good}]")
    for name in ("a.jsonl", "a.json"):
        assert rows_of(tmp_path / name) == [(1, "a key comes twice"), (2, {"text": "b"})]


def test_a_line_that_is_too_long_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from curate.formats.json_files import bounded_lines

    content = b"ab\n" + b"x" * 25 + b"\n" + b"c" * 10 + b"\nd"
    assert list(bounded_lines(io.BytesIO(content), most=10)) == [b"ab\n", None, None, b"d"]
    assert list(bounded_lines(io.BytesIO(content), most=11)) == [b"ab\n", None, b"c" * 10 + b"\n", b"d"]


def test_rows_of_a_table_that_python_cannot_hold_are_rejected_alone(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.array([b"a", b"\xff", b"c", b"d"], pa.binary()).view(pa.string())
    day = pa.array([0, 0, 2**31 - 1, None], pa.date32())
    pq.write_table(pa.table({"text": text, "day": day}), tmp_path / "a.parquet")
    rows = rows_of(tmp_path / "a.parquet")
    assert [row if isinstance(row, str) else row["text"] for _, row in rows] == [
        "a",
        "not UTF-8",
        "a value out of range",
        "d",
    ]


def test_a_damaged_arrow_file_is_an_error_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list([{"text": f"text {n}", "id": str(n)} for n in range(40)]).save_to_disk(str(tmp_path / "a"))
    (file,) = (tmp_path / "a").glob("*.arrow")
    content = bytearray(file.read_bytes())
    at = content.index((6).to_bytes(4, "little") + (12).to_bytes(4, "little"))  # offsets of the texts: 0, 6, 12, ...
    content[at + 3] = 0x7F
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged \(column text\)"):
        rows_of(tmp_path / "a")


def test_a_folder_is_all_its_data_files_by_name(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".cache").mkdir()
    for name in ("b.jsonl", "sub/a.jsonl", "README.md", "dataset_info.json", ".cache/c.jsonl", ".d.jsonl"):
        (tmp_path / name).write_text('{"text": "a"}\n')
    with gzip.open(tmp_path / "c.jsonl.gz", "wt") as file:
        file.write('{"text": "zipped"}\n')
    assert [file.name for file in data_files(tmp_path)] == ["b.jsonl", "c.jsonl.gz", "a.jsonl"]
    assert (1, {"text": "zipped"}) in rows_of(tmp_path)


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, "zstd", asbytes=True))


@pytest.mark.parametrize(
    ("end", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstd)]
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.CSV"])
def test_a_packed_file_is_read_as_the_file_and_one_that_is_cut_off_or_changed_is_named(
    tmp_path: Path, name: str, end: str, pack: Callable[[bytes], bytes]
) -> None:
    content = b"".join(b'{"text": "row %d, %s"}\n' % (n, str(n**9).encode()) for n in range(5000))
    if name.endswith("CSV"):
        content = b"text\n" + b"".join(b"row %d\n" % n for n in range(5000))
    (tmp_path / name).write_bytes(content)
    packed = tmp_path / f"{name}{end}"
    half = content.index(b"\n", len(content) // 2) + 1
    packed.write_bytes(pack(content[:half]) + pack(content[half:]))  # in two parts, as parallel packers write them
    assert rows_of(packed) == rows_of(tmp_path / name)
    whole = packed.read_bytes()
    for broken in (whole[:-20], whole[: len(whole) // 2], b"nothing that it should be"):
        packed.write_bytes(broken)
        with pytest.raises(DataError, match=re.escape(packed.name)):
            rows_of(packed)


@pytest.mark.parametrize("name", ["a.txt", "a.parquet", "a.jsonl.gz", "a.parquet.gz", "a.zst"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing that it should be")
    with pytest.raises(DataError, match=name):
        rows_of(tmp_path / name)


def test_a_saved_dataset_and_parquet_are_read_as_the_rows_that_were_written(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict, Features, Json, List, Value

    rows = [
        {"messages": [QUESTION, {"role": "assistant", "content": "", "tool_calls": [CALL]}], "n": 1, "note": None},
        {"messages": [QUESTION, ANSWER], "n": 2, "note": "x"},
    ]
    message = {"role": Value("string"), "content": Value("string"), "tool_calls": Json()}
    features = Features({"messages": List(message), "n": Value("int64"), "note": Value("string")})
    data = Dataset.from_list(rows, features=features)
    data.save_to_disk(str(tmp_path / "one"))
    DatasetDict({"test": data}).save_to_disk(str(tmp_path / "many"))
    data.to_parquet(str(tmp_path / "a.parquet"))
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "a.parquet") == list(enumerate(rows, start=1))
    assert [row.values for row in read_location(str(tmp_path / "many"), split="test")] == rows
    with pytest.raises(DataError, match=r"no split 'train'.*test"):
        rows_of(tmp_path / "many")


def test_a_hub_dataset_is_read_at_the_commit_it_was_fingerprinted_by(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    calls: list[Any] = []

    def load(*args: Any, **options: Any) -> datasets.Dataset:
        calls.append((args, options))
        return datasets.Dataset.from_list([{"text": "a"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert [row.values for row in read_location("me/data", split="test", subset="en", revision="abc")] == [
        {"text": "a"}
    ]
    assert calls == [(("me/data", "en"), {"split": "test", "revision": "abc"})]


def test_a_hub_dataset_that_cannot_be_loaded_is_an_error_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load(*args: Any, **options: Any) -> None:
        raise ValueError("Unknown split\n'train'.")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=r"'me/data' cannot be loaded: Unknown split 'train'\. Check"):
        read_location("me/data", split="train")
