"""Precision and recall of `curate dedup` on a pool with planted noise, beside semhash and datatrove.

`python benchmarks/dedup.py FOLDER` reads `pool.parquet` of a folder (columns id, instruction, input, output, noise and
origin): `noise` names the rule by which a row was made from the row `origin`. A planted row is found if it or its
origin is left out. Every method runs in a process of its own with one thread, and its seconds are of all of it.
Peers run in environments of their own, if they are given:

    python -m venv /tmp/semhash && /tmp/semhash/bin/pip install semhash==0.5.0 wordllama==0.4.0.post1 pyarrow
    python -m venv /tmp/datatrove
    /tmp/datatrove/bin/pip install "datatrove[processing]==0.10.1" "xxhash<4" pyarrow orjson
    python benchmarks/dedup.py FOLDER --semhash /tmp/semhash --datatrove /tmp/datatrove

semhash compares vectors of the static encoder in wordllama, because its own is not in the package; datatrove keeps
numbers and signs (`norm_numbers` and `remove_punctuation` off), and with --defaults it does not.

Other near pairs are judged by a rule that shares nothing with the command: compared word by word (difflib), they are
copies if no word is exchanged for another one, apart from spelling and a few words without a meaning of their own,
if at most a tenth of the words is only in one of them, and if both have the same numbers. The rule is strict: the same
article with the same summary and another wording of the task is no copy to it.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
READ = 300
"""Other pairs that are drawn to be judged."""


def text_of(row: dict[str, Any]) -> str:
    return "\n".join(row[key] for key in ("instruction", "input", "output") if row[key])


# The methods, each in a process of its own; each writes the numbers of the rows that it keeps


def by_curate(folder: Path, work: Path, options: argparse.Namespace) -> list[int]:
    from curate import Store, make

    store = Store(work / "store")
    make(store, "ingest", name="pool", data=[f"pool={folder / 'pool.parquet'}"])
    started = time.process_time()
    made = make(store, "dedup", name="clean", pool="pool")
    print(f"dedup alone: {time.process_time() - started:.1f} s of processor time", file=sys.stderr)
    ids = [row["sample_id"] for table in store.get("pool").tables(["sample_id"]) for row in table.to_pylist()]
    left = set(made.table()["sample_id"].to_pylist())
    pairs = store.query("SELECT sample_id, other_id FROM duplicates WHERE kind = 'near'").to_pylist()
    number = {sample_id: place for place, sample_id in reversed(list(enumerate(ids)))}
    found = [[number[pair["sample_id"]], number[pair["other_id"]]] for pair in pairs]
    (work / "pairs.json").write_text(json.dumps(found))
    kept: list[int] = []
    for place, sample_id in enumerate(ids):
        if sample_id in left:
            left.remove(sample_id)
            kept.append(place)
    return kept


def by_semhash(folder: Path, work: Path, options: argparse.Namespace) -> list[int]:
    import numpy as np
    import wordllama
    from semhash import SemHash

    encoder = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)

    class Encoder:
        def encode(self, inputs: Any, **_: Any) -> Any:
            return np.asarray(encoder.embed(list(inputs)))

    rows = pq.read_table(folder / "pool.parquet").to_pylist()
    records = [{"number": str(number), "text": text_of(row)} for number, row in enumerate(rows)]
    index = SemHash.from_records(records=records, columns=["text"], model=Encoder())
    return [int(record["number"]) for record in index.self_deduplicate(threshold=options.cosine).selected]


def by_datatrove(folder: Path, work: Path, options: argparse.Namespace) -> list[int]:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter
    from datatrove.utils.text import TextNormConfig

    rows = pq.read_table(folder / "pool.parquet").to_pylist()
    (work / "in").mkdir()
    with (work / "in" / "rows.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": text_of(row), "id": str(number)}) + "\n" for number, row in enumerate(rows))
    norm = TextNormConfig() if options.defaults else TextNormConfig(norm_numbers=False, remove_punctuation=False)
    config, reader = MinhashConfig(norm_config=norm), JsonlReader(str(work / "in"))
    names = [str(work / name) for name in ("signatures", "buckets", "remove", "out")]
    steps: list[tuple[list[Any], int]] = [
        ([reader, MinhashDedupSignature(output_folder=names[0], config=config)], 1),
        ([MinhashDedupBuckets(input_folder=names[0], output_folder=names[1], config=config)], config.num_buckets),
        ([MinhashDedupCluster(input_folder=names[1], output_folder=names[2], config=config)], 1),
        ([reader, MinhashDedupFilter(input_folder=names[2]), JsonlWriter(names[3], compression=None)], 1),
    ]
    for number, (pipeline, tasks) in enumerate(steps):
        LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(work / f"log{number}")).run()
    return [int(json.loads(line)["id"]) for path in (work / "out").glob("*.jsonl") for line in path.open()]


METHODS = {"curate": by_curate, "semhash": by_semhash, "datatrove": by_datatrove}


# What they are worth


def found_kinds(rows: list[dict[str, Any]], kept: set[int]) -> tuple[Counter[str], int]:
    """Return planted rows of which the row or its origin is left out, by kind, and other rows that are left out."""
    number = {row["id"]: place for place, row in enumerate(rows)}
    found, explained = Counter[str](), set()
    for place, row in enumerate(rows):
        if row["noise"] and row["origin"] in number:
            pair = {place, number[row["origin"]]}
            found[row["noise"]] += not pair <= kept
            explained |= pair
    return found, len(set(range(len(rows))) - kept - explained)


EMPTY = frozenset(
    re.findall(
        r"\w+",
        "a an the this that these those is are was were be been of to in on at for from by with as and or so then "
        "please can could would will you your i me my we our it its what which who how do does did just also given",
    )
)
"""Words whose exchange does not change what is asked."""


def is_copy(one: str, two: str) -> bool:
    """Say by a slow rule whether two texts are near copies; see above."""
    texts = [re.findall(r"\w+|[^\w\s]", text.lower()) for text in (one, two)]
    numbers = [[word for word in text if word[0].isdigit()] for text in texts]
    steps = difflib.SequenceMatcher(None, *texts, autojunk=False).get_opcodes()
    alone = 0
    for kind, start, end, begin, stop in steps:
        parts = [[word for word in text if word.isalnum()] for text in (texts[0][start:end], texts[1][begin:stop])]
        meant = [" ".join(word for word in part if word not in EMPTY) for part in parts]
        if kind == "replace" and all(meant) and difflib.SequenceMatcher(None, *meant).ratio() < 0.6:
            return False
        alone += 0 if kind == "equal" else max(map(len, parts))
    return numbers[0] == numbers[1] and alone <= 0.1 * max(map(len, texts))


def judged(rows: list[dict[str, Any]], pairs: list[list[int]]) -> dict[str, Any]:
    """Judge some of the near pairs of which neither row is a planted copy, and show the first."""
    origin = {row["id"]: row["origin"] for row in rows if row["noise"]}
    others = [
        pair for pair in pairs if not any(origin.get(rows[a]["id"]) == rows[b]["id"] for a, b in (pair, pair[::-1]))
    ]
    drawn = random.Random(0).sample(others, min(READ, len(others)))
    right = [is_copy(*(text_of(rows[number]) for number in pair)) for pair in drawn]
    shown = [[text_of(rows[number])[:300] for number in pair] for pair in drawn[:20]]
    wrong = [[text_of(rows[n])[:300] for n in pair] for pair, good in zip(drawn, right, strict=True) if not good]
    return {"other pairs": len(others), "drawn": len(drawn), "right": sum(right), "first": shown, "wrong": wrong[:20]}


def measure(name: str, python: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run a method in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        command = [str(python), __file__, str(options.folder), "--method", name, "--work", str(work)]
        command += ["--cosine", str(options.cosine), *(["--defaults"] if options.defaults else [])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CURATE_PROGRESS": "0"}
        environment |= {"PYTHONPATH": str(ROOT)} if name == "curate" else {}
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{name} failed.")
        seconds = usage.ru_utime + usage.ru_stime
        kept = set(json.loads((work / "kept.json").read_text()))
        pairs = json.loads((work / "pairs.json").read_text()) if name == "curate" else []
    rows = pq.read_table(options.folder / "pool.parquet").to_pylist()
    found, others = found_kinds(rows, kept)
    result = {
        "pool": options.folder.name,
        "method": name,
        "processor seconds": round(seconds, 1),
        "wall seconds": round(time.perf_counter() - started, 1),
        "peak MiB": usage.ru_maxrss // 1024,
        "left out": len(rows) - len(kept),
        "found": dict(found),
        "other rows": others,
    }
    return result | ({"judged": judged(rows, pairs)} if pairs else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of pool.parquet")
    parser.add_argument("--semhash", type=Path, help="environment with semhash and wordllama")
    parser.add_argument("--datatrove", type=Path, help="environment with datatrove")
    parser.add_argument("--cosine", type=float, default=0.9, help="threshold of semhash")
    parser.add_argument("--defaults", action="store_true", help="datatrove with its own defaults")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.method:
        kept = METHODS[options.method](options.folder, options.work, options)
        (options.work / "kept.json").write_text(json.dumps(kept))
        return
    pythons = {"curate": Path(sys.executable)}
    for name in ("datatrove", "semhash"):
        if (given := getattr(options, name)) is not None:
            pythons[name] = given / "bin" / "python"
    for name, python in pythons.items():
        print(json.dumps(measure(name, python, options), ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
