"""Parity of the UDS selector with the authors' scoring, step after step.

Reads a file of inputs and outputs of their scoring run and prints, as its last line, JSON with `utility_rel_err`,
`sketch_rel_err` (relative, greatest over steps) and `kept_equal`.

    python benchmarks/uds_parity.py FILE.npz
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from curate.numerics.head import Head
from curate.numerics.srft import Side, TwoSided
from curate.selectors import CandidateBatch, RunInfo, choose
from curate.selectors.uds import UDS
from curate.signals import Probe, Sketch


def selector_of(data: dict[str, np.ndarray]) -> UDS:
    """UDS with the signs and rows of the file."""
    srft = TwoSided(
        left=Side(torch.from_numpy(data["time_signs"]), torch.from_numpy(data["time_rows"]).long()),
        right=Side(torch.from_numpy(data["vocab_signs"]), torch.from_numpy(data["vocab_rows"]).long()),
    )
    info = RunInfo(vocab_size=len(data["head"]), max_length=int(data["max_length"]))
    uds = UDS(
        info=info,
        alpha=float(data["alpha"]),
        memory=int(data["memory"]),
        d1=len(srft.left.rows),
        d2=len(srft.right.rows),
    )
    uds.srft = srft
    uds.signals = {**uds.signals, "sketch": Sketch(srft)}
    return uds


def relative(ours: torch.Tensor, theirs: np.ndarray) -> float:
    """max ‖ours − theirs‖ / ‖theirs‖ over the rows."""
    reference = torch.from_numpy(theirs).double().reshape(len(theirs), -1)
    return float(((ours.double().reshape(len(ours), -1) - reference).norm(dim=1) / reference.norm(dim=1)).max())


def compare(file: Path) -> dict[str, float | bool]:
    """Run the selector over every step of the file."""
    data = dict(np.load(file))
    uds = selector_of(data)
    head = Head(torch.from_numpy(data["head"]))
    errors: dict[str, list[float]] = {"utility": [], "sketch": [], "total": []}
    kept_equal = True
    for step, hidden in enumerate(torch.from_numpy(data["hidden"])):
        ones = torch.ones(hidden.shape[:2], dtype=torch.int64)
        probe = Probe(hidden, head, ones.bool(), ones)
        values = {name: signal(probe) for name, signal in uds.signals.items()}
        batch = CandidateBatch(step + 1, torch.arange(len(hidden)), ones.sum(1), values)
        scores = uds.score(batch)
        kept = choose(scores.total, data["kept"].shape[1])
        uds.update(batch, kept)
        errors["utility"].append(relative(values["utility"], data["utility"][step]))
        errors["sketch"].append(relative(values["sketch"] * uds.srft.paper_scale, data["sketch"][step]))
        errors["total"].append(relative(scores.total, data["total"][step]))
        kept_equal &= kept.tolist() == data["kept"][step].tolist()
        worst = "  ".join(f"{name} {values[-1]:.1e}" for name, values in errors.items())
        print(f"step {step}: {worst} {kept.tolist()}")
    return {
        "utility_rel_err": max(errors["utility"]),
        "sketch_rel_err": max(errors["sketch"]),
        "total_rel_err": max(errors["total"]),
        "kept_equal": kept_equal,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    print(json.dumps(compare(parser.parse_args().file)))
