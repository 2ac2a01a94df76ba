"""The way of a large pool through the stages: seconds and peak memory of each, and how they grow with the pool.

Short samples are generated on the fly and ingested, and copies among them are left out. A model of about a million
parameters (the demo's, barely trained) embeds the first of them; the vectors and features of the others are drawn,
around random directions, and written as `curate embed` writes them, so that what follows runs unchanged: it is told
apart in the table. Then cluster, the top of a feature in SQL, nearest neighbours by the index, an export of a tenth,
and the search for 1,000 held-out rows. Every stage runs in a process of its own, so that its peak resident set is its
own. The last line is JSON; the exit status is 1 if a stage needed more than --bound.

    python benchmarks/scale.py --rows 100000 1000000
    python benchmarks/scale.py --rows 20000 50000 --nearest --keep /tmp/scale
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scale_pool import D2, PLANTED, generate, shards_of, store_of, write_features

TOP, QUERIES, NEIGHBOURS = 100, 100, 10
ROOT = Path(__file__).resolve().parents[1]


# The stages, each in a process of its own


def ingest(args: argparse.Namespace) -> dict[str, Any]:
    """The samples into the store."""
    from curate.stages import make

    pool = make(store_of(args), "ingest", data=str(args.work / "rows.jsonl"), name="pool")
    return {"rows": pool.rows, "distinct": pool.summary["distinct"]}


def model(args: argparse.Namespace) -> dict[str, Any]:
    """A model of about a million parameters."""
    from curate.stages import make

    made = make(store_of(args), "demo-model", steps=5, name="model")
    return {"parameters": made.summary["parameters"]}


def embed(args: argparse.Namespace) -> dict[str, Any]:
    """The first samples, by the model."""
    from curate.stages import make

    store = store_of(args)
    make(store, "ingest", data=str(args.work / "first.jsonl"), name="first")
    sizes = {"d1": args.width // D2, "d2": D2, "max_length": 128, "score_batch_size": 64}
    made = make(store, "embed", pool="first", model="model", name="measured", **sizes)
    return {"rows": made.rows}


def draw(args: argparse.Namespace) -> dict[str, Any]:
    """Features of the whole pool: measured ones where there are, drawn ones elsewhere."""
    from curate.config import Config

    store = store_of(args)
    pool, measured = store.get("pool"), store.get("measured")
    made = store.make(
        "embed",
        lambda draft: write_features(args, store, draft),
        Config(name="features"),
        {"pool": pool.fingerprint, "measured": measured.fingerprint},
    )
    return {"rows": made.rows, "drawn": made.rows - args.embedded}


def dedup(args: argparse.Namespace) -> dict[str, Any]:
    """One sample of each group of copies, by MinHash, of questions and answers together."""
    return deduplicated(args, "clean", on="both")


def dedup_answers(args: argparse.Namespace) -> dict[str, Any]:
    """The same by the answers alone. None has a number, so any two may be copies."""
    return deduplicated(args, "clean-answers", on="answer")


def dedup_again(args: argparse.Namespace) -> dict[str, Any]:
    """The same at another threshold, by the pairs that are stored."""
    return deduplicated(args, "clean-again", on="answer", threshold=0.9)


def deduplicated(args: argparse.Namespace, name: str, **options: Any) -> dict[str, Any]:
    from curate.stages import make

    made = make(store_of(args), "dedup", pool="pool", name=name, **options)
    kept = ("removed as exact copies", "removed as near copies", "pairs")
    return {"rows": made.rows, **{key: made.summary[key] for key in kept if key in made.summary}}


def cluster(args: argparse.Namespace) -> dict[str, Any]:
    """100 clusters; with --nearest every sample's nearest other one."""
    from curate.stages import make

    made = make(store_of(args), "cluster", features="features", k=100, nearest=args.nearest, name="clusters")
    kept = ("iterations", "mean_similarity", "silhouette", "learnt_from", "neighbours")
    return {key: made.summary[key] for key in kept if key in made.summary}


def sql_top(args: argparse.Namespace) -> dict[str, Any]:
    """The samples of the highest utility, with cluster and text."""
    found = store_of(args).query(
        "WITH top AS (SELECT sample_id, utility FROM features WHERE features = 'features' "
        f"ORDER BY utility DESC LIMIT {TOP}) "
        "SELECT top.*, cluster, messages FROM top JOIN clusters USING (sample_id) JOIN conversations USING (sample_id) "
        "WHERE clusters = 'clusters' AND pool = 'pool' ORDER BY utility DESC"
    )
    return {"rows": len(found)}


def index(args: argparse.Namespace) -> dict[str, Any]:
    """The index over all vectors, kept beside them; of --nearest the clustering has made it already."""
    from curate.store.vectors.index import index_of

    return {"kind": str(index_of(store_of(args).get("features").path, shards_of(args)).kind)}


def neighbours(args: argparse.Namespace) -> dict[str, Any]:
    """The most similar samples of some, by the kept index, held against all cosines."""
    import numpy as np

    from curate.store.vectors.index import ShardIndex, index_of

    vectors = shards_of(args)
    queries = vectors.sample(QUERIES, seed=1).matrix
    found = index_of(store_of(args).get("features").path, vectors)
    started = time.perf_counter()
    _, positions = found.nearest(queries, NEIGHBOURS)
    seconds = time.perf_counter() - started
    _, truth = ShardIndex(vectors).nearest(queries, NEIGHBOURS)
    shared = [len(set(one) & set(other)) for one, other in zip(positions, truth, strict=True)]
    return {"search_s": round(seconds, 4), f"recall_at_{NEIGHBOURS}": round(float(np.mean(shared)) / NEIGHBOURS, 4)}


def export(args: argparse.Namespace) -> dict[str, Any]:
    """The tenth of the highest utility."""
    from curate.stages import make

    sql = (
        "SELECT sample_id, utility AS score FROM features WHERE features = 'features' "
        f"ORDER BY utility DESC, sample_id LIMIT {args.rows // 10}"
    )
    made = make(
        store_of(args),
        "export",
        sql=sql,
        pool="pool",
        columns=("score",),
        file_format=args.file_format,
        to=str(args.work / "export"),
        name="tenth",
    )
    return {"rows": made.rows}


def decontaminate(args: argparse.Namespace) -> dict[str, Any]:
    """The samples without held-out rows, of which the pool has some."""
    from curate.stages import make

    store = store_of(args)
    make(store, "ingest", data=str(args.work / "held.jsonl"), name="held")
    made = make(store, "decontaminate", pool="pool", against=("held",), name="clean")
    found = store.query(f"SELECT count(*) AS n FROM leaks WHERE position = against_position AND position < {PLANTED}")
    kept = ("held-out rows", "rows of the pool with one")
    return {"found_of_planted": f"{found['n'][0]} of {PLANTED}", **{key: made.summary[key] for key in kept}}


STAGES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "generate": generate,
    "ingest": ingest,
    "dedup": dedup,
    "dedup_answers": dedup_answers,
    "dedup_again": dedup_again,
    "model": model,
    "embed": embed,
    "draw": draw,
    "cluster": cluster,
    "sql_top": sql_top,
    "index": index,
    "neighbours": neighbours,
    "export": export,
    "decontaminate": decontaminate,
}
OURS = [name for name in STAGES if name not in ("generate", "draw")]
"""The stages whose memory is bounded by what curate does: the others are the benchmark's own."""


# Measuring


def measured(args: argparse.Namespace, name: str, rows: int, work: Path) -> dict[str, Any]:
    """A stage in a process of its own: seconds, peak resident set in MiB, and what it says."""
    command = [sys.executable, __file__, "--stage", name, "--work", str(work), "--rows", str(rows)]
    command += ["--width", str(args.width), "--embedded", str(min(args.embedded, rows)), "--seed", str(args.seed)]
    command += ["--as", args.file_format, *(["--nearest"] if args.nearest else [])]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CURATE_PROGRESS": "0", "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"The stage {name} failed at {rows} rows.")
    peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    processor = round(usage.ru_utime + usage.ru_stime, 2)
    result = {
        "seconds": round(seconds, 2),
        "processor_s": processor,
        "rss_mib": round(peak, 1),
        **json.loads(said.splitlines()[-1]),
    }
    print(f"{rows:>10} {name:<13} {seconds:8.1f} s {peak:8.0f} MiB  {json.dumps(result)}", file=sys.stderr, flush=True)
    return result


def table(results: dict[int, dict[str, dict[str, Any]]]) -> Iterator[str]:
    """Markdown: a row a stage, and how the last size compares to the first."""
    sizes = list(results)
    heads = [head for rows in sizes for head in (f"{rows:,} rows: s", "peak MiB")]
    grown = [f"time ×, at {sizes[-1] / sizes[0]:g} × the rows", "memory ×"] if len(sizes) > 1 else []
    yield "| " + " | ".join(["stage", *heads, *grown]) + " |"
    yield "|---|" + "---:|" * (len(heads) + len(grown))
    for name in results[sizes[0]]:
        found = [results[rows][name] for rows in sizes]
        cells = [cell for one in found for cell in (f"{one['seconds']:.1f}", f"{one['rss_mib']:.0f}")]
        if grown:
            cells += [f"{found[-1][key] / max(found[0][key], 1e-9):.2f}" for key in ("seconds", "rss_mib")]
        yield f"| {name}{'' if name in OURS else ' (not curate)'} | " + " | ".join(cells) + " |"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000], help="sizes of the pool")
    parser.add_argument("--width", type=int, default=256, help=f"numbers of a vector, a multiple of {D2}")
    parser.add_argument("--embedded", type=int, default=20_000, help="samples that the model embeds")
    parser.add_argument("--only", choices=STAGES, nargs="+", help="these stages, and what makes the pool")
    parser.add_argument("--nearest", action="store_true", help="find every sample's nearest other one, too")
    parser.add_argument("--as", dest="file_format", choices=("hf", "jsonl", "parquet"), default="hf")
    parser.add_argument("--bound", type=float, default=3.0, help="GiB that no stage may exceed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="work here and leave what was made")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.width % D2:
        parser.error(f"--width must be a multiple of {D2}")
    return args


def main() -> None:
    """Every stage at every size."""
    args = parse()
    if args.stage:
        args.rows = args.rows[0]
        print(json.dumps(STAGES[args.stage](args)))
        return
    results: dict[int, dict[str, dict[str, Any]]] = {}
    folder = args.keep or Path(tempfile.mkdtemp(prefix="curate-scale-"))
    try:
        for rows in args.rows:
            work = folder / str(rows)
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            chosen = [name for name in STAGES if not args.only or name in ("generate", "ingest", *args.only)]
            results[rows] = {name: measured(args, name, rows, work) for name in chosen}
            if not args.keep:
                shutil.rmtree(work)
    finally:
        if not args.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{min(args.embedded, args.rows[0]):,} samples are measured by the model; all others have drawn vectors.\n")
    print("\n".join(table(results)))
    peak = max(results[rows][name]["rss_mib"] for rows in results for name in results[rows] if name in OURS) / 1024
    total = {rows: round(sum(stage["seconds"] for stage in found.values()), 1) for rows, found in results.items()}
    print(json.dumps({"peak_rss_gib": round(peak, 3), "bound_gib": args.bound, "total_s": total, "stages": results}))
    if peak > args.bound:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
