"""Made-up content of report pages, of any size, for the tests of the page and for the benchmark of opening it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.stages.advise.picture import race_table

HOSTILE = (
    "<script>window.pwned = 1</script>",
    "</script><script>window.pwned = 2</script>",
    "<img src=x onerror='window.pwned = 3'>",
    "\"quotes\" and 'quotes' & &lt;entities&gt; <!-- comment -->",
    "left \u202e right-to-left override \u2066 isolate",
    "NUL \x00, bell \x07, escape \x1b[31m, delete \x7f",
    "lone \ud800 surrogates \udfff",
    "line \u2028 and paragraph \u2029 separators, ]]> and {{braces}} @@data@@",
)
SOURCES = ("alpaca", "gsm8k", "code", "dialogue", "mcq")
LENGTHS = ("under 32", "32 to 63", "64 to 127", "128 to 255", "256 or more")
WORDS = (
    "explain choose water light number answer because river write function return list short summary translate "
    "history python orange planet divide remainder sentence reason table colour engine travel music protein"
)
MODES = ("source", "cluster", "length", "family")
Floats = NDArray[np.float64]
Payload = dict[str, Any]


def full_payload(
    samples: int = 600, runs: int = 2, seed: int = 0, *, hostile: bool = False, words: int = 60
) -> Payload:
    """Return every part of a report, with `samples` samples of about `words` words, half of them in the answers."""
    chance = np.random.default_rng(seed)
    names = [("uds", "max_loss", "random", "greats", "rho", "max_grad", "filter", "less")[n % 8] for n in range(runs)]
    names = [name if names.index(name) == n else f"{name}_{n}" for n, name in enumerate(names)]
    pool = _samples(chance, samples, names, words)
    if hostile:
        for n, text in enumerate(HOSTILE):
            pool["prompt"][n] = text
            pool["answer"][n] = text[::-1]
    return {
        "version": 1,
        "title": " · ".join(names),
        "made_at": "2026-11-22T08:00:00+00:00",
        "curate": "0.1.0",
        "notes": [f"The pool has {20 * samples:,} samples; {samples:,} are shown: all that were ever kept."],
        "missing": {},
        "runs": [_run(chance, name, number, samples) for number, name in enumerate(names)],
        "groups": [_groups(chance, by, pool, runs) for by in MODES],
        "agreement": _agreement(chance, names) if runs > 1 else None,
        "map": _map(chance, pool),
        "samples": pool,
        "comparisons": [_comparison(names)],
        "evaluations": [
            {"run": name, "pool": "held_out", "source": source, "metric": metric, "value": value, "samples": 120}
            for name in names
            for source in (None, *SOURCES[:3])
            for metric, value in (("loss", round(float(chance.uniform(2, 4)), 4)), ("exact_match", 0.25))
        ],
    }


def attributed_payload(samples: int) -> Payload:
    """Return a report with an attribution: the mean of two queries, then each; some texts are hostile, one is gone."""
    rows = [
        {"rank": rank, "from_bottom": 9 - rank, "influence": influence, "share": influence, "steps": 3,
         "sample_id": f"{rank:032x}", "text": text}
        for rank, influence, text in ((0, 0.5, HOSTILE[0]), (1, 0.25, "One"), (8, -0.125, None), (9, -0.25, "Last"))
    ]  # fmt: skip
    queries = [{"id": None, "text": None, "rows": rows}, {"id": "a" * 32, "text": HOSTILE[0], "rows": rows[:1]}]
    queries.append({"id": "b" * 32, "text": None, "rows": rows[1:]})
    found = {"name": "why", "run": "run", "metric": "adam", "count": 2, "samples": 10, "queries": queries}
    return full_payload(samples, runs=1) | {"attributions": [found]}


def advised_payload(samples: int) -> Payload:
    """Return a report with the advice of a race: two rounds, a verdict, and hostile names and notes."""
    rounds = {("race", 1): (0,), ("race", 2): (1,), ("verdict", 3): (1000, 1001)}
    methods = {"random": ("control", 0.0), "tfidf": ("candidate", -0.25), "max_loss <b>": ("candidate", 0.5)}
    runs = [
        {"stage": stage, "round": number, "method": method, "role": role, "seed": seed, "loss": 2 + loss + seed / 100,
         "kept_for_next": method != "max_loss <b>"}
        for (stage, number), seeds in rounds.items() for method, (role, loss) in methods.items() for seed in seeds
        if number == 1 or method != "max_loss <b>"
    ]  # fmt: skip
    table = race_table(runs)
    verdict = {"method": "tfidf", "control": "random", "rows": 128, "seeds": 2, "difference": -0.25, "low": -0.3}
    verdict |= {"high": -0.125, "level": 0.9, "verdict": "better", "tokens_saved": None, "seconds_saved": 1250.0}
    advice = {
        "name": "advice",
        "advised": "tfidf",
        "sentence": "Use tfidf. At equal time its loss differs from that of random by -0.2500 (-0.3000 to -0.1250).",
        "command": "curate train --pool advice-train --subset advice-tfidf-chosen --name advice-full",
        **asdict(table),
        "cells": [asdict(cell) | {"mean": cell.mean} for cell in table.cells],
        "verdicts": [verdict],
        "notes": [{"kind": "duplicates", "count": 12, "detail": HOSTILE[0]}],
    }
    return full_payload(samples, runs=1) | {"advice": [advice]}


def copied_payload(samples: int) -> Payload:
    """Return a report with held-out rows in the pool and copies, of hostile texts; one held-out row is of a task."""
    leak = {"kind": "contained", "score": 0.91, "evidence": 12.5, "passage": "how tall is the tower", "position": 3}
    leak |= {"sample_id": "a1", "against": "held", "other_id": "b1"}
    texts = ["…before ", f"How tall is {HOSTILE[0]}", f" {HOSTILE[1]}"]
    task = leak | {"kind": "exact", "score": 1.0, "against": "task:gsm8k", "other_id": "gsm8k/3", "other_text": None}
    found = {
        "name": "clean",
        "kept": samples - 2,
        "counts": [
            {"kind": "contained", "pairs": 27, "samples": 25, "others": 26},
            {"kind": "exact", "pairs": 1, "samples": 1, "others": 1},
        ],
        "pairs": [leak | {"text": texts, "other_text": [HOSTILE[2]]}, task | {"text": [HOSTILE[0]]}],
        "left_out": 26,
    }
    copy = {
        "kind": "near",
        "score": 0.82,
        "sample_id": "c1",
        "other_id": "c2",
        "text": ["One."],
        "other_text": ["Two."],
    }
    copies = {"name": "once", "kept": samples - 1, "pairs": [copy], "left_out": 0}
    copies |= {"counts": [{"kind": "near", "pairs": 1, "samples": 1, "others": 1}]}
    return full_payload(samples, runs=1) | {"leaks": [found], "copies": [copies]}


def bare_payload() -> Payload:
    """Return a report of a run without any data: every part is missing and gives the command that makes it."""
    run = {
        "name": "bare",
        "selector": "random",
        "model": "models/base2m",
        "pool": "pool",
        "seed": 0,
        "steps": 0,
        "offered": 0,
        "kept": 0,
        "tokens": None,
        "target_tokens": None,
        "config": {},
        "changed": [],
        "provenance": {"fingerprint": "c1:0", "made_at": None, "curate": None, "inputs": [], "packages": {}},
        "loss": None,
        "eval": None,
        "kept_share": {"step": [], "value": []},
        "scores": [],
        "distributions": [],
        "time": [],
        "missing": {
            "loss": "No losses were logged.",
            "eval": "No held-out loss: train with --eval-pool POOL.",
            "scores": "This selector scores nothing.",
            "time": "No times were logged.",
        },
    }
    sections = {
        "groups": "No sample was offered.",
        "agreement": "Agreement needs at least two runs.",
        "map": "No sketches of this pool: curate embed --pool pool --model m --signals sketch --name features",
        "samples": "The pool is gone: curate ingest data.jsonl --name pool",
        "comparisons": "No comparison has this run: curate compare --pool pool --model m --name c",
        "evaluations": "Never evaluated: curate evaluate --run bare --pool held_out --name e",
    }
    pool = {
        "total": 0,
        "shown": 0,
        "id": [],
        "position": [],
        "prompt": [],
        "answer": [],
        "tokens": [],
        "labels": {},
        "runs": [{"offered": [], "kept": [], "columns": {}}],
    }
    return {
        "version": 1,
        "title": "bare",
        "made_at": "2026-11-22T08:00:00+00:00",
        "curate": "0.1.0",
        "notes": [],
        "missing": sections,
        "runs": [run],
        "groups": [],
        "agreement": None,
        "map": None,
        "samples": pool,
        "comparisons": [],
        "evaluations": [],
    }


def _rounded(values: Floats, digits: int = 4) -> list[float | None]:
    return [None if np.isnan(value) else value for value in np.round(values, digits).tolist()]


def _samples(chance: np.random.Generator, n: int, names: list[str], words: int) -> Payload:
    vocabulary = np.array(WORDS.split())
    texts = [" ".join(line) for line in vocabulary[chance.integers(0, len(vocabulary), (2 * n, max(1, words // 2)))]]
    source = chance.integers(0, len(SOURCES), n)
    return {
        "total": 20 * n,
        "shown": n,
        "id": [f"{key:016x}" for key in chance.integers(1 << 40, 1 << 62, n).tolist()],
        "position": sorted(chance.choice(20 * n, n, replace=False).tolist()),
        "prompt": [f"Question {row}: {text.capitalize()}?" for row, text in enumerate(texts[:n])],
        "answer": [f"{text.capitalize()}." for text in texts[n:]],
        "tokens": chance.integers(8, 400, n).tolist(),
        "labels": {
            "source": {"values": list(SOURCES), "codes": source.tolist()},
            "cluster": {
                "values": [str(c) for c in range(12)],
                "codes": ((source * 5 + chance.integers(0, 4, n)) % 12).tolist(),
            },
            "family": {"values": ["add", "sort", "copy"], "codes": chance.integers(-1, 3, n).tolist()},
            "noise": {"values": ["shuffled", "truncated"], "codes": np.where(chance.random(n) < 0.05, 1, -1).tolist()},
        },
        "runs": [_history(chance, n, name) for name in names],
    }


def _history(chance: np.random.Generator, n: int, name: str) -> Payload:
    offered = chance.binomial(6, 0.5, n)
    kept = chance.binomial(offered, chance.beta(1, 4, n))
    seen = np.where(offered > 0, 1.0, np.nan)
    columns: dict[str, list[float | None]] = {
        "score": _rounded(seen * chance.normal(0, 1, n)),
        "loss": _rounded(seen * chance.gamma(4, 0.8, n)),
        "volatility": _rounded(seen * chance.gamma(2, 0.1, n)),
        "forgetting": _rounded(seen * chance.binomial(offered, 0.2)),
    }
    if name.startswith("uds"):
        columns |= {part: _rounded(seen * chance.normal(0, 1, n)) for part in ("utility", "diversity")}
    return {"offered": offered.tolist(), "kept": kept.tolist(), "columns": columns}


def _run(chance: np.random.Generator, name: str, number: int, samples: int) -> Payload:
    steps = np.arange(1, 121)
    fall = 4.7 - 0.9 * (1 - np.exp(-steps / 40)) + 0.1 * number
    times = [5, 10, *range(20, 121, 20)]
    parts = ("score", "utility", "diversity", "loss") if name.startswith("uds") else ("score", "loss")
    return {
        "name": name,
        "selector": name,
        "model": "models/base2m",
        "pool": "pool6k",
        "seed": number,
        "steps": 120,
        "offered": 7680,
        "kept": 960,
        "tokens": 103_214 + number,
        "target_tokens": 48_020,
        "config": {
            "candidates": 64,
            "keep": 8,
            "learning_rate": 5e-4,
            "selector": name,
            "max_tokens": 512,
            "alpha": 0.5,
        },
        "changed": ["learning_rate", "selector"],
        "provenance": {
            "fingerprint": f"c1:{number:032x}",
            "made_at": "2026-11-22T07:00:00+00:00",
            "curate": "0.1.0",
            "inputs": [
                {"role": "pool", "name": "pool6k", "stage": "ingest", "fingerprint": "c1:8171a3", "rows": 20 * samples}
            ],
            "packages": {"torch": "2.13.0", "transformers": "5.23.0"},
        },
        "loss": {"step": steps.tolist(), "value": _rounded(fall + chance.normal(0, 0.15, 120))},
        "eval": {"step": times, "value": _rounded(fall[np.array(times) - 1])},
        "kept_share": {"step": steps.tolist(), "value": [0.125] * 120, "tokens": _rounded(chance.beta(40, 280, 120))},
        "labels": [_label(chance, text, steps) for text in ("math", HOSTILE[0])],
        "scores": [_curve(chance, part, steps) for part in parts],
        "distributions": [_distribution(chance, part) for part in parts],
        "time": [
            {"part": part, "seconds": round(float(chance.uniform(2, 30)), 2)}
            for part in ("scoring forward", "score arithmetic", "training", "ledger", "data")
        ],
        "missing": {},
    }


def _label(chance: np.random.Generator, name: str, steps: NDArray[np.int64]) -> Payload:
    shares = {key: {"step": steps[9::10].tolist(), "value": [0.5] * 12} for key in ("offered", "kept")}
    losses = {"step": steps[9::10].tolist(), "value": _rounded(3 + chance.normal(0, 0.2, 12))}
    return {"name": name, **shares, "loss": losses}


def _curve(chance: np.random.Generator, name: str, steps: NDArray[np.int64]) -> Payload:
    passed = np.sin(steps / 30) * 0.2 + chance.normal(0, 0.05, len(steps))
    kept = passed + 0.8 + chance.normal(0, 0.05, len(steps))
    return {"name": name, "step": steps.tolist(), "kept": _rounded(kept), "passed": _rounded(passed)}


def _distribution(chance: np.random.Generator, name: str) -> Payload:
    edges = np.linspace(-4, 5, 41)
    kept, _ = np.histogram(chance.normal(1.2, 0.7, 960), edges)
    passed, _ = np.histogram(chance.normal(-0.2, 0.9, 6720), edges)
    return {"name": name, "edges": _rounded(edges), "kept": kept.tolist(), "passed": passed.tolist()}


def _groups(chance: np.random.Generator, by: str, pool: Payload, runs: int) -> Payload:
    if by == "length":
        labels, share = list(LENGTHS), chance.dirichlet(np.full(len(LENGTHS), 8.0))
    else:
        labels = pool["labels"][by]["values"]
        codes = np.array(pool["labels"][by]["codes"])
        share = np.bincount(codes[codes >= 0], minlength=len(labels)) / len(codes)
    chances = [np.clip(share * chance.uniform(0.97, 1.03, len(share)), 0, 1) for _ in range(runs)]
    kept = [row * np.exp(chance.normal(0, 0.35, len(share))) for row in chances]
    kept = [row / row.sum() * share.sum() for row in kept]
    wide = [1.96 * np.sqrt(row * (1 - row) / 960) for row in chances]
    return {
        "by": by,
        "labels": labels,
        "pool": _rounded(share),
        "chance": [_rounded(row) for row in chances],
        "kept": [_rounded(row) for row in kept],
        "low": [_rounded(np.clip(row - w, 0, 1)) for row, w in zip(chances, wide, strict=True)],
        "high": [_rounded(row + w) for row, w in zip(chances, wide, strict=True)],
    }


def _agreement(chance: np.random.Generator, names: list[str]) -> Payload:
    n = len(names)
    jaccard, shared = np.eye(n), np.full((n, n), 900.0)
    alone = [[None if a == b else 0.07 for a in range(n)] for b in range(n)]
    for a in range(n):
        for b in range(a):
            jaccard[a, b] = jaccard[b, a] = chance.uniform(0.05, 0.6)
            shared[a, b] = shared[b, a] = round(900 * jaccard[a, b])
    table = {"jaccard": [_rounded(row) for row in jaccard], "shared": shared.astype(int).tolist(), "chance": alone}
    return {"runs": names, **table}


def _map(chance: np.random.Generator, pool: Payload) -> Payload:
    clusters = np.array(pool["labels"]["cluster"]["codes"])
    centres = chance.normal(0, 3, (12, 2))
    places = centres[clusters] + chance.normal(0, 0.8, (len(clusters), 2))
    return {
        "method": "PCA",
        "of": "features",
        "explained": [0.31, 0.12],
        "x": _rounded(places[:, 0]),
        "y": _rounded(places[:, 1]),
    }


def _comparison(names: list[str]) -> Payload:
    rows: list[dict[str, Any]] = [
        {"method": "random", "kind": "control", "seeds": 3, "mean": 4.071, "spread": 0.02, "difference": None}
        | {"low": None, "high": None, "verdict": "", "noise": 0.2, "overhead": 1.0}
    ]
    verdicts = ("better than random", "a tie with random", "worse than random")
    for n, name in enumerate(name for name in names if name != "random"):
        middle = (-0.08, 0.01, 0.12)[n % 3]
        rows.append(
            {"method": name, "kind": "online", "seeds": 3, "mean": round(4.071 + middle, 4), "spread": 0.03}
            | {"difference": middle, "low": middle - 0.03, "high": middle + 0.03, "verdict": verdicts[n % 3]}
            | {"noise": 0.12 + 0.1 * n, "overhead": 1.07}
        )
    note = (
        "No method is called better when the interval includes zero. Three seeds: chance alone gives a verdict in 25 %."
    )
    return {"name": "first", "axis": "tokens", "budget": 48000, "note": note, "rows": rows}
