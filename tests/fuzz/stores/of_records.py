"""Mutations of JSON files, drafts, manifests, checkpoints, models, and saved questions."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from curate.store.artifacts.manifest import _digest
from tests.fuzz.files import spoil

from .values import EVERY, HOSTILE, changed, one, resign, sign_checkpoint, written
from .world import MARKS, OUTSIDE, STORE


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.place),)


def json_values(rng: Random, world: Path) -> str:
    """Change a value of any JSON file that curate wrote; checksums fit mostly."""
    while "files" in (path := one(rng, world, "*.json")).relative_to(world / STORE).parts:
        continue
    return _change(rng, world, path)


def _change(rng: Random, world: Path, path: Path, *, signed: float = 0.8) -> str:
    content, words = changed(rng, json.loads(path.read_text(encoding="utf-8")))
    path.write_bytes(written(rng, content))
    if path.name != "files.json" and rng.random() < signed:
        resign(world / STORE, path)
    return f"{path.relative_to(world)}: {words}"


def manifests(rng: Random, world: Path) -> str:
    """Change the list of an artifact's files, whose own checksum is made to fit mostly."""
    path = one(rng, world, "files.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    files = content["files"]
    name = rng.choice(sorted(files))
    how = rng.choice(["path", "drop", "value", "content", "more"])
    if how == "path":
        files[rng.choice(PATHS)] = files.pop(name)
    elif how == "drop":
        del files[name]
    elif how == "value":
        files[name] = rng.choice([*EVERY, {"bytes": rng.choice(EVERY), "sha256": rng.choice(EVERY)}])
    elif how == "more":
        files[rng.choice(PATHS)] = dict(files[name])
    else:
        content["files"], _ = changed(rng, files)
    if rng.random() < 0.8:
        content["sha256"] = _digest(content["files"])
    path.write_bytes(written(rng, content))
    return f"{path.relative_to(world)}: {name}: {how}"


PATHS = (
    f"../../../../{OUTSIDE}/secret.csv",
    f"files/../../../../../{OUTSIDE}/notes.txt",
    "/etc/passwd",
    "part-00000.parquet",
    "part-99999.parquet",
    f"part-../../../../../{OUTSIDE}/secret.csv",
    "facts/samples/x.parquet",
    "facts/x (y); --/x.parquet",
    "files",
    "files/" + "x" * 300,
    "",
    ".",
    "a\0b",
    HOSTILE.replace("/", "_"),
    "checkpoints/checkpoint-2/optimizer.pt",
)


def drafts(rng: Random, world: Path) -> str:
    """Change the description of an unfinished artifact, or what lies beside it."""
    path = rng.choice(sorted((world / STORE).glob("artifacts/*/*/draft.json")))
    how = rng.choice(["value", "value", "option", "option", "lock", "finish", "settled"])
    if how == "value":
        return _change(rng, world, path)
    content = json.loads(path.read_text(encoding="utf-8"))
    if how == "option":
        option = rng.choice([*sorted(content["config"]), *POWERS])
        content["config"][option] = rng.choice([*EVERY, True, True, "outside/secret.jsonl", str(world / "model")])
        path.write_text(json.dumps(content), encoding="utf-8")
        return f"{path.relative_to(world)}: the option {option} = {content['config'][option]!r:.60}"
    if how == "lock":
        lock = path.with_name("draft.lock")
        lock.write_bytes(
            rng.choice([b"1 on x", b"\x1b[31m on \xff", b"9" * 100_000, b"", f"{os.getpid()} on x".encode()])
        )
    elif how == "finish":
        described = {**content, "rows": 3, "summary": {}, "made_at": "2026-01-01T00:00:00+00:00"}
        path.with_name("artifact.json").write_text(json.dumps(described), encoding="utf-8")
    else:
        path.with_name("settled.json").write_bytes(written(rng, {"step": rng.choice(EVERY)}))
    return f"{path.relative_to(world)}: {how}"


POWERS = (
    "trust_remote_code",
    "allow_files",
    "push_to_hub",
    "report_to",
    "task_folder",
    "chat_template",
    "to",
    "selector",
    "model",
    "data",
    "__class__",
)


def checkpoints(rng: Random, world: Path) -> str:
    """Spoil, replace, rename or forge a checkpoint's files; its checksums are made to fit mostly."""
    folder = rng.choice(sorted((world / STORE).glob("artifacts/train/*/checkpoints/checkpoint-*")))
    path = rng.choice(sorted(each for each in folder.iterdir() if each.is_file()))
    how = rng.choice(["spoil", "spoil", "pickle", "json", "json", "number", "folder", "tensors", "zip"])
    if how == "json":
        path = rng.choice(sorted(folder.glob("*.json")))
        words = _change(rng, world, path)
        return words
    if how == "number":
        name = rng.choice(["checkpoint-99999999999999999999", "checkpoint--1", "checkpoint-0", "checkpoint-x", HOSTILE])
        folder.rename(folder.with_name(name.replace("/", "_").replace("\0", "")))
        return f"{folder.relative_to(world)} is now {name!r}"
    if how == "folder":
        shutil.copytree(folder, folder.with_name(f"checkpoint-{rng.choice([3, 100, 2**40])}"))
        return f"{folder.relative_to(world)} is there once more"
    if how == "pickle":
        path = folder / rng.choice(["optimizer.pt", "rng_state.pth", "scheduler.pt", "training_args.bin", "scaler.pt"])
        forge(rng, path, world / MARKS / "pickle")
    elif how == "tensors":
        path = rng.choice(sorted(folder.glob("*.safetensors")))
        safetensors(rng, path)
    elif how == "zip":
        path = folder / "optimizer.pt"
        retyped(rng, path)
    else:
        spoil(rng, path)
    if rng.random() < 0.85 and folder.is_dir():
        sign_checkpoint(folder)
    return f"{path.relative_to(world)}: {how}"


def forge(rng: Random, path: Path, mark: Path) -> None:
    """Write a pickle that makes a folder when it is read, bare or as torch writes it."""
    import torch

    if rng.random() < 0.5:
        torch.save(Payload(mark), path)
    else:
        path.write_bytes(pickle.dumps(Payload(mark)))


def retyped(rng: Random, path: Path) -> None:
    """Replace a torch file by one with tensors of other shapes and types, or other values in their place."""
    import torch

    state = torch.load(path, weights_only=True)
    content, _ = changed(rng, {str(key): None for key in state}) if rng.random() < 0.3 else (state, "")
    found = content.get("state") if isinstance(content, dict) else None
    for values in found.values() if isinstance(found, dict) else ():
        if isinstance(values, dict):
            values["exp_avg"] = rng.choice([torch.zeros(1), torch.zeros(3, 3, dtype=torch.int8), None, "x", [1]])
    torch.save(content, path)


def safetensors(rng: Random, path: Path) -> None:
    """Change the header of a safetensors file, or its numbers."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    how = rng.choice(["value", "value", "numbers", "length", "rename", "transpose"])
    tensor = rng.choice(sorted(key for key in header if key != "__metadata__"))
    if how == "value":
        header, _ = changed(rng, header)
    elif how == "numbers":
        data = np.full(len(data) // 4, rng.choice([np.nan, np.inf, 1e38, 0.0]), "<f4").tobytes()[: len(data)]
        data += bytes(len(content) - 8 - length - len(data))
    elif how == "rename":
        header[rng.choice(["x", HOSTILE, "__metadata__", tensor + ".x"])] = header.pop(tensor)
    elif how == "transpose":
        header[tensor]["shape"] = header[tensor]["shape"][::-1]
    text = json.dumps(header).encode()
    claimed = rng.choice([2**63, 2**40, 0, length + 1]) if how == "length" else len(text)
    path.write_bytes(struct.pack("<Q", claimed) + text + data)


def model(rng: Random, world: Path) -> str:
    """Change a model: its config, tokenizer, template, weights or adapter, or put code beside it."""
    root = world / STORE
    folders = [path for path in sorted(root.glob("artifacts/*/*/files")) if (path / "tokenizer.json").exists()]
    folder = rng.choice([*folders, world / "model"])
    how = rng.choice(["json", "json", "json", "json", "tensors", "tensors", "template", "template", "code", "pickle"])
    if how == "json":
        path = rng.choice(sorted(folder.glob("*.json")))
        content, words = changed(rng, json.loads(path.read_text(encoding="utf-8")))
        path.write_bytes(written(rng, content))
    elif how == "tensors":
        path, words = rng.choice(sorted(folder.glob("*.safetensors"))), "tensors"
        safetensors(rng, path)
    elif how == "template":
        path, words = folder / "chat_template.jinja", "template"
        path.write_text(rng.choice(TEMPLATES).replace("MARK", str(world / MARKS / "template")), encoding="utf-8")
    elif how == "pickle":
        path, words = folder / rng.choice(["pytorch_model.bin", "adapter_model.bin", "training_args.bin"]), "pickle"
        forge(rng, path, world / MARKS / "model")
        for weights in folder.glob("*.safetensors") if rng.random() < 0.7 else ():
            weights.unlink()
    else:
        path, words = folder / "evil.py", "code"
        _plant(rng, folder, world / MARKS / "code")
    if folder.is_relative_to(root) and rng.random() < 0.9:
        resign(root, path)
    return f"{path.relative_to(world)}: {words}"


def _plant(rng: Random, folder: Path, mark: Path) -> None:
    """Put Python code beside a model, and let its configs name it."""
    (folder / "evil.py").write_text(f"import os\nos.makedirs({str(mark)!r}, exist_ok=True)\n", encoding="utf-8")
    for name in sorted(path.name for path in folder.glob("*config.json")):
        about = json.loads((folder / name).read_text(encoding="utf-8"))
        about["auto_map"] = {
            "AutoConfig": "evil.Config",
            "AutoModelForCausalLM": "evil.Model",
            "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"],
        }
        if rng.random() < 0.5:
            about |= {"model_type": "nobody-knows-it", "tokenizer_class": "NobodyKnowsIt", "auto_mapping": "evil"}
        (folder / name).write_text(json.dumps(about), encoding="utf-8")


TEMPLATES = (
    "{{ cycler.__init__.__globals__.os.mkdir('MARK') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ raise_exception('no') }}",
    "{% for i in range(10**9) %}{{ i }}{% endfor %}",
    "{{ 'x' * 10**10 }}",
    "{% include 'outside/notes.txt' %}",
    "{% for m in messages %}{{ m.content }}",
    "{{ messages[99].content }}",
    "{{ 1 / 0 }}",
    "",
    "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "{% generation %}",
    "{% for m in messages %}{{ m['role'] ~ m['content'] }}\x1b[31m\u202e{% endfor %}",
    "\x00",
)


def queries(rng: Random, world: Path) -> str:
    """Change a saved question, or add one."""
    folder = world / STORE / "queries"
    path = folder / rng.choice(["most_kept.sql", "many_turns.sql", "extra.sql", "compare_runs.sql"])
    text = rng.choice(STATEMENTS).replace("MARK", str(world / MARKS / "sql")).replace("OUTSIDE", str(world / OUTSIDE))
    comment = rng.choice(["", f"-- {HOSTILE}\n", "-- $turns $run $x\n", "/* " * 500, "-- " + "x" * 10_000 + "\n"])
    path.write_bytes(
        rng.choice([(comment + text).encode(), text.encode(), text.encode() + b"\xff\x00", text.encode("utf-16")])
    )
    return f"{path.relative_to(world)}: {comment[:20]!r} {text[:80]!r}"


STATEMENTS = (
    "SELECT 1 AS one WHERE $turns >= 0",
    "COPY (SELECT 1) TO 'MARK'",
    "COPY (SELECT 1) TO 'MARK' (FORMAT csv)",
    "SELECT * FROM read_csv('OUTSIDE/secret.csv')",
    "SELECT * FROM 'OUTSIDE/secret.csv'",
    "SELECT * FROM read_text('OUTSIDE/notes.txt')",
    "SELECT * FROM glob('OUTSIDE/*')",
    "ATTACH 'OUTSIDE/x.duckdb'",
    "INSTALL httpfs; LOAD httpfs",
    "SELECT * FROM 'https://example.org/x.parquet'",
    "SET enable_external_access = true; SELECT 1",
    "DELETE FROM samples",
    "SELECT getenv('HOME')",
    "SELECT chr(27) || '[31m' AS x, chr(0) AS y, chr(8238) AS z, '=1+1' AS f",
    "SELECT " + ", ".join(f"{n} AS c{n}" for n in range(3000)),
    "SELECT 1 AS a, 2 AS a",
    "SELECT 1; SELECT 2",
    "SELECT",
    "",
    "SELECT x FROM",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "EXPORT DATABASE 'MARK'",
    "SELECT [1, {'a': NULL}] AS l, MAP {'a': 1} AS m, '2020-01-01'::DATE AS d, 1.5::DECIMAL(9, 2) AS e, "
    "INTERVAL 1 YEAR AS i, '\\x00'::BLOB AS b, uuid() IS NULL AS u, 'nan'::FLOAT AS n, 1e400::DOUBLE AS big",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 500) SELECT * FROM r",
    "SELECT * FROM samples WHERE sample_id = $nothing",
)
