"""Kept sets of exact and of prescreened scoring, with the same weights and the same memory in every step.

One run trains exactly: every candidate is scored. Next to it, each prescreen makes its own choice in every step: it
sees only the scores of the candidates that it would have scored, learns from these, and opens up where it would. So
the kept sets of a step can be compared one by one. This holds for selectors whose scores do not depend on the other
candidates of a step (`uds`, `max_loss`, `rho`, `max_grad`).

The last line is JSON. For each prescreen: `same`, the share of the exactly kept samples that it keeps too; `scored`,
the share of the candidates that it scores, audited ones included; `missed`, its own estimate and interval; `shares`,
the first step of each share that it had.

    python benchmarks/prescreen.py --model MODEL --data POOL --rows 6000 --steps 100
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor

import curate.stages.train.stage as stage
from curate.prescreens import Auto, Candidates, LastScore, Line, Prescreen, Screened, Screening
from curate.selectors import Scores, choose
from curate.stages import make
from curate.store import Store

KINDS = {"length": lambda count: Line(), "last_score": LastScore, "auto": Auto}
"""Name of a prescreen -> function of the number of rows that makes it."""


class Shadow:
    """A prescreen that looks on: it makes the choices that it would make, and changes nothing.

    Args:
        prescreen: predicts the candidates' values.
        share: share of the candidates that pass.
        bound: share of the kept samples that may be missed.
    """

    def __init__(self, prescreen: Prescreen, share: float, bound: float) -> None:
        self.screening = Screening(prescreen, share=share, bound=bound, seed=42)
        self.same = self.kept = self.scored = self.offered = 0

    def look(self, step: int, known: Candidates, positions: Tensor, scores: Scores, keep: int) -> None:
        """Choose among the candidates that pass, and compare with the exact choice."""
        screened = self.screening.screen(step, known, positions, keep)
        rows, total = screened.scored, scores.total.cpu()
        exact, own = choose(total, keep).tolist(), rows[choose(total[rows], keep)].tolist()
        self.same += len({*exact} & {*own})
        self.kept += len(exact)
        self.scored += len(rows)
        self.offered += len(known)
        passed = total[~screened.ruled_out]
        hits = sum(int((passed > total[one]).sum()) < keep for one in screened.audited.nonzero()[:, 0])
        parts = {name: part.cpu()[rows] for name, part in scores.parts.items()}
        self.screening.record(step, known, screened, Scores(total[rows], parts), hits, keep)

    def result(self) -> dict[str, Any]:
        """Return what the last line has of this prescreen."""
        middle, low, high = (round(share, 4) for share in self.screening.misses.of_run().shares)
        return {
            "same": round(self.same / self.kept, 4),
            "scored": round(self.scored / self.offered, 4),
            "missed": [middle, low, high],
            "shares": dict(self.screening.history()),
        }


class OnLookers(Screening):
    """A screening that rules nothing out and shows each step to the shadows.

    Args:
        shadows: the prescreens that look on, by name.
    """

    def __init__(self, shadows: Mapping[str, Shadow]) -> None:
        super().__init__(Line(), share=1.0)
        self.shadows = shadows

    def screen(self, step: int, candidates: Candidates, positions: Tensor, least: int) -> Screened:
        """Let all candidates pass, and remember them."""
        self.positions = positions
        return super().screen(step, candidates, positions, least)

    def record(
        self, step: int, candidates: Candidates, screened: Screened, scores: Scores, hits: int, kept: int
    ) -> str | None:
        """Show the step to the shadows."""
        for shadow in self.shadows.values():
            shadow.look(step, candidates, self.positions, scores, kept)
        if step % 20 == 0:
            print(step, {name: shadow.result()["same"] for name, shadow in self.shadows.items()}, file=sys.stderr)
        return super().record(step, candidates, screened, scores, hits, kept)


def replayed(options: argparse.Namespace) -> dict[str, Any]:
    """Train exactly, with all prescreens next to the run, and return what each would have kept."""
    shadows: dict[str, Shadow] = {}

    def onlookers(config: Any, inputs: Any, table: Any) -> Any:
        for share in options.shares:
            for kind, build in KINDS.items():
                shadows[f"{kind} {share:g}"] = Shadow(build(len(table)), share, options.miss)
        return lambda: OnLookers(shadows)

    stage.screening_of = onlookers
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        first = f"{folder}/first.parquet"
        pq.write_table(pq.read_table(options.data).slice(0, options.rows), first)
        make(store, "ingest", name="pool", data=(first,))
        make(
            store, "train", name="run", pool="pool", model=options.model, selector=options.selector, candidates=64,
            keep=8, max_steps=options.steps, num_train_epochs=1000, max_length=options.length, save_steps=10**6,
            prescreen=1.0,
        )  # fmt: skip
    return {name: shadow.result() for name, shadow in shadows.items()}


def main() -> None:
    """Print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--selector", default="uds")
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--miss", type=float, default=0.05)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(replayed(options)))


if __name__ == "__main__":
    main()
