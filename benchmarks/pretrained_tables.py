"""Print the tables of docs/results.md from what benchmarks/pretrained.py recorded: no store and no model is needed.

    python benchmarks/pretrained_tables.py

Losses are weighted by target tokens. A difference is to `random` (or `--control`) of the same seeds and on the same
rows; its interval is over seeds and rows (`curate.numerics.paired.two_way_interval`). At equal tokens and seconds the
control is interpolated to the tokens and seconds that the method's run had spent; where it spent less, its end counts.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from benchmarks.pretrained import LOSSES, RESULTS, RUNS, SIGNALS, STEPS
from curate.numerics.paired import LEAST_SEEDS, two_way_interval, verdict

Array = npt.NDArray[np.float64]
Key = tuple[str, int, str]
"""Run, step and held-out pool."""

LENGTHS = "uds-lengths"
"""The control of `uds`: random samples as long as those that it kept."""

START = "start"
"""Name under which the losses of the untrained model are recorded."""


class Results:
    """The recorded runs and losses.

    Args:
        folder: folder of the two files.
    """

    def __init__(self, folder: Path = RESULTS) -> None:
        self.runs: list[dict[str, Any]] = pq.read_table(folder / RUNS).to_pylist()
        measured: dict[Key, dict[int, float]] = defaultdict(dict)
        self._weights: dict[str, dict[int, int]] = defaultdict(dict)
        for row in pq.read_table(folder / LOSSES).to_pylist():
            measured[(row["run"], row["step"], row["pool"])][row["position"]] = row["loss"]
            self._weights[row["pool"]][row["position"]] = row["target_tokens"]
        self.losses: dict[Key, Array] = {key: _in_order(values) for key, values in measured.items()}

    def of(self, method: str, seed: int | None = None) -> list[dict[str, Any]]:
        """Return what is recorded of a method's runs, by step."""
        runs = (run for run in self.runs if run["method"] == method and seed in (None, run["seed"]))
        return sorted(runs, key=lambda run: int(run["step"]))

    def seeds(self, method: str, pool: str) -> list[int]:
        """Return the seeds with which a method's losses on a pool were measured."""
        return sorted({int(run["seed"]) for run in self.of(method) if (run["run"], run["step"], pool) in self.losses})

    def weights(self, pool: str) -> Array:
        """Return the target tokens of a pool's rows, (rows,)."""
        return _in_order(self._weights[pool])

    def at(self, method: str, seed: int, pool: str, axis: str = "step", amount: float = STEPS) -> Array | None:
        """Return the loss of every row when a run had spent an amount, interpolated between measurements, (rows,).

        Args:
            method: name of the method.
            seed: seed of the run.
            pool: the held-out pool.
            axis: `step`, `tokens` or `seconds`.
            amount: the amount. Where the run spent less, its end counts, which favours what it is compared with.
        """
        measured = [run for run in self.of(method, seed) if (run["run"], run["step"], pool) in self.losses]
        points = [(float(run[axis]), self.losses[run["run"], run["step"], pool]) for run in measured]
        if points and (START, 0, pool) in self.losses:
            points = [(0.0, self.losses[START, 0, pool]), *points]
        spent = [point[0] for point in points]
        if not spent or amount < spent[0]:
            return None
        amount = min(amount, spent[-1])
        after = int(np.searchsorted(spent, amount))
        if spent[after] == amount:
            return points[after][1]
        share = (amount - spent[after - 1]) / (spent[after] - spent[after - 1])
        low, high = points[after - 1][1], points[after][1]
        return np.asarray(low + share * (high - low), np.float64)

    def spent(self, method: str, seed: int, axis: str, step: int = STEPS) -> float:
        """Return what a run had spent after a step: `tokens`, `seconds`, `answer_tokens`, or `noisy` samples."""
        return float(next(run[axis] for run in self.of(method, seed) if run["step"] == step))

    def compared(self, method: str, control: str, pool: str, axis: str) -> tuple[list[Array], list[Array]]:
        """Return the losses of method and control, for each seed that both have, at the method's last step.

        Args:
            method: name of the method.
            control: name of the control, which is interpolated on `axis` to what the method had spent.
            pool: the held-out pool.
            axis: `step`, `tokens` or `seconds`.
        """
        pairs = []
        for seed in self.seeds(method, pool):
            ours = self.at(method, seed, pool)
            amount = STEPS if axis == "step" else self.spent(method, seed, axis)
            theirs = self.at(control, seed, pool, axis, amount)
            if ours is not None and theirs is not None:
                pairs.append((ours, theirs))
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]

    def difference(self, method: str, control: str, pool: str, axis: str = "step") -> tuple[str, str, str]:
        """Return a difference, its interval and the verdict, as text."""
        ours, theirs = self.compared(method, control, pool, axis)
        if not ours:
            return "–", "–", "–"
        weights = self.weights(pool)
        mean = float(np.average(np.mean(np.array(ours) - np.array(theirs), axis=0), weights=weights))
        if len(ours) < LEAST_SEEDS:
            return _signed(mean), "–", "one seed"
        bounds = two_way_interval(np.array(ours), np.array(theirs), weights)
        return _signed(mean), f"{_signed(bounds[0])} to {_signed(bounds[1])}", str(verdict(bounds))


def _in_order(values: Mapping[int, float]) -> Array:
    """Return values by position as an array, in the order of the positions."""
    return np.array([values[position] for position in sorted(values)], np.float64)


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def losses_table(results: Results, methods: Sequence[str], pool: str, control: str = "random") -> str:
    """Return a table of losses after `STEPS` steps, sorted, with the differences to the control at equal samples."""
    found = []
    weights = results.weights(pool)
    for method in methods:
        losses = {seed: results.at(method, seed, pool) for seed in results.seeds(method, pool)}
        values = [float(np.average(loss, weights=weights)) for loss in losses.values() if loss is not None]
        seeds = [seed for seed, loss in losses.items() if loss is not None]
        if not values:
            continue
        mean = {axis: np.mean([results.spent(method, seed, axis) for seed in seeds]) for axis in SPENT}
        noise = f"{100 * mean['noisy'] / mean['samples']:.0f} %"
        numbers = (f"{mean['tokens']:,.0f}", f"{mean['answer_tokens']:,.0f}", f"{mean['seconds']:.0f}", noise)
        differs = ("–", "–", "control") if method == control else results.difference(method, control, pool)
        loss = f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")
        found.append((np.mean(values), (method, loss, *differs, str(len(values)), *numbers)))
    header = ("method", "held-out loss", f"Δ {control}", "90 % interval", "verdict", "seeds", "tokens", "answer tokens")
    return _table((*header, "seconds", "noise"), [row for _, row in sorted(found)])


SPENT = ("samples", "tokens", "answer_tokens", "seconds", "noisy")


def budgets_table(results: Results, methods: Sequence[str], pool: str, control: str = "random") -> str:
    """Return a table of the differences to the control at equal samples, tokens and seconds."""
    rows = []
    for method in methods:
        if method == control or not results.seeds(method, pool):
            continue
        cells = [method]
        for axis in ("step", "tokens", "seconds"):
            mean, bounds, word = results.difference(method, control, pool, axis)
            cells += [f"{mean} ({bounds})" if bounds != "–" else mean, word]
        rows.append(cells)
    header = (
        "method",
        "Δ at equal samples",
        "verdict",
        "Δ at equal tokens",
        "verdict",
        "Δ at equal seconds",
        "verdict",
    )
    return _table(header, rows)


def rates_table(results: Results, pool: str = "rates") -> str:
    """Return the losses of the short runs that the learning rate was chosen by."""
    weights = results.weights(pool)
    runs = [run for run in results.runs if run["method"].startswith("rates-")]
    rates = sorted({run["rate"] for run in runs})
    rows = []
    for method in sorted({run["method"] for run in runs}):
        keys = {run["rate"]: (run["run"], run["step"], pool) for run in runs if run["method"] == method}
        losses = [results.losses.get(keys[rate]) if rate in keys else None for rate in rates]
        cells = ["–" if loss is None else f"{np.average(loss, weights=weights):.3f}" for loss in losses]
        rows.append([method.removeprefix("rates-"), *cells])
    return _table(("selector", *(f"{rate:g}" for rate in rates)), rows)


def noise_table(folder: Path, pool: str = "pool") -> str:
    """Return, for each signal of the untrained model, how well it tells planted noise of each kind from clean rows.

    The number is the AUROC: the probability that a noisy row has the higher signal than a clean one. The last column is
    the number of noisy rows (without the copies, which are good texts) among the tenth of rows with the highest signal.
    """
    table = pq.read_table(folder / SIGNALS).to_pylist()
    rows = [row for row in table if row["pool"] == pool]
    noise = np.array([row["noise"] for row in rows])
    of = {name: np.array([row[name] for row in rows], np.float64) for name in NUMBERS}
    surprise = of["loss"] - of["entropy"]
    signals = {
        "loss": of["loss"],
        "entropy": of["entropy"],
        "loss − entropy": surprise,
        "(loss − entropy) · √answer tokens": surprise * np.sqrt(of["target_tokens"]),
        "tokens": of["tokens"],
        "nuclear norm (UDS)": of["utility"],
        "nuclear norm a token": of["utility"] / of["tokens"],
    }
    kinds = ("garbled", "truncated", "wrong_output", "wrong_number", "duplicate", "near_duplicate")
    clean, wrong = noise == "", np.isin(noise, kinds[:4])
    found = []
    for name, signal in signals.items():
        cells = [f"{auroc(signal, noise == kind, clean):.2f}" for kind in kinds]
        top = wrong[np.argsort(-signal, kind="stable")[: len(signal) // 10]].sum()
        found.append((name, *cells, f"{auroc(signal, wrong, clean):.2f}", f"{top} of {wrong.sum()}"))
    return _table(("signal", *(kind.replace("_", " ") for kind in kinds), "first four", "found in a tenth"), found)


NUMBERS = ("loss", "entropy", "utility", "tokens", "target_tokens")
"""The signals that are recorded of each row."""


def auroc(values: Array, noisy: npt.NDArray[np.bool_], clean: npt.NDArray[np.bool_]) -> float:
    """Return the probability that a noisy row has a higher value than a clean one; equal values count half."""
    from scipy.stats import mannwhitneyu

    ranked = mannwhitneyu(values[noisy], values[clean]).statistic
    return float(ranked / (noisy.sum() * clean.sum()))


def trajectory(results: Results, pool: str = "heldout", method: str = "random") -> str:
    """Return the losses of one method by step, mean over its seeds."""
    weights = results.weights(pool)
    steps = sorted({int(run["step"]) for run in results.of(method)})
    rows = []
    for step in (0, *steps):
        losses = [results.at(method, seed, pool, "step", step) for seed in results.seeds(method, pool)]
        values = [float(np.average(loss, weights=weights)) for loss in losses if loss is not None]
        if values:
            rows.append((str(step), f"{np.mean(values):.3f}"))
    return _table(("steps", method), rows)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the two files")
    args = parser.parse_args()
    results = Results(args.results)
    methods = [
        method for method in dict.fromkeys(run["method"] for run in results.runs) if not method.startswith("rates-")
    ]
    general = [method for method in methods if "/" not in method]
    print(f"Learning rates\n\n{rates_table(results)}\n")
    print(f"Steps of random\n\n{trajectory(results)}\n")
    print(f"Without a target\n\n{losses_table(results, general, 'heldout')}\n")
    print(f"Budgets\n\n{budgets_table(results, general, 'heldout')}\n")
    if results.seeds(LENGTHS, "heldout"):
        rows = [("uds", *results.difference("uds", LENGTHS, "heldout"))]
        print(f"Equal lengths\n\n{_table(('method', f'Δ {LENGTHS}', '90 % interval', 'verdict'), rows)}\n")
    for pool in ("pool", "fresh"):
        print(f"Planted noise in the rows of {pool}\n\n{noise_table(args.results, pool)}\n")
    for target in ("gsm8k", "code"):
        of_target = ["random", "k_center", *(method for method in methods if method.startswith(f"{target}/"))]
        print(f"{target}\n\n{losses_table(results, of_target, f'{target}-heldout')}\n")
        print(f"{target}, budgets\n\n{budgets_table(results, of_target, f'{target}-heldout')}\n")


if __name__ == "__main__":
    main()
