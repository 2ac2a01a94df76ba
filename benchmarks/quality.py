"""How well stored columns tell planted noise from clean rows: AUROC by kind of noise.

`python benchmarks/quality.py STORE --pool POOL --features A B …` joins the columns of features with the rows of a pool,
whose column `noise` (`--truth`) names what is wrong with a row; it is empty for a clean row. For each numeric and
boolean column it prints the AUROC of each kind against the clean rows: the chance that a row of the kind has the larger
value, ties counted half, so 0.5 is none, and below 0.5 the smaller values are those of the noise. A boolean column, and
each word of a text column whose words are joined by commas (`--words`), has the share of the kind that is flagged in
its place, and the number of clean rows that are. Rows without a value are left out and counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.stats import rankdata

from curate import Store

KEYS = ("features", "sample_id", "tokens")
"""Columns of the table `features` that are no measurement of quality."""
KINDS = "SELECT sample_id, coalesce(metadata->>$truth, '') AS kind FROM samples WHERE pool = $pool ORDER BY position"

Values = npt.NDArray[np.float64]


def auroc(noise: Values, clean: Values) -> float:
    """Return the chance that a value of `noise` is larger than one of `clean`; ties count half.

    It is the statistic of Mann and Whitney over the number of pairs. NaN if either has no value.
    """
    if not len(noise) or not len(clean):
        return float("nan")
    ranks = rankdata(np.concatenate([noise, clean]))
    return float((ranks[: len(noise)].sum() / len(noise) - (len(noise) + 1) / 2) / len(clean))


def columns_of(store: Store, features: str, words: Sequence[str]) -> dict[str, tuple[dict[str, Any], bool]]:
    """Return the columns of features that have values: name -> (sample id -> value, whether it is boolean)."""
    table = store.query("SELECT * FROM features WHERE features = $name", {"name": features})
    ids = table["sample_id"].to_pylist()
    found: dict[str, tuple[dict[str, Any], bool]] = {}
    for field in table.schema:
        column, kind = table[field.name], field.type
        if field.name in KEYS or column.null_count == len(column):
            continue
        values = column.to_pylist()
        if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
            found[field.name] = dict(zip(ids, values, strict=True)), pa.types.is_boolean(kind)
        elif field.name in words and pa.types.is_string(kind):
            parts = [None if value is None else set(value.split(",")) - {""} for value in values]
            for word in sorted({word for part in parts if part for word in part}):
                flags = [None if part is None else word in part for part in parts]
                found[f"{field.name}: {word}"] = dict(zip(ids, flags, strict=True)), True
            either = [None if part is None else bool(part) for part in parts]
            found[f"{field.name}: any"] = dict(zip(ids, either, strict=True)), True
    return found


def row_of(kinds: Sequence[str], values: Sequence[Any], *, flags: bool) -> dict[str, str]:
    """Return the cells of a column: one per kind of noise, then clean rows that are flagged, and rows without value."""
    by_kind: dict[str, list[float]] = {}
    for kind, value in zip(kinds, values, strict=True):
        if value is not None and np.isfinite(value):
            by_kind.setdefault(kind, []).append(float(value))
    clean = np.array(by_kind.pop("", []))
    cells = {}
    for kind in sorted(set(kinds) - {""}):
        noise = np.array(by_kind.get(kind, []))
        cells[kind] = "" if not len(noise) else f"{noise.mean():.0%}" if flags else f"{auroc(noise, clean):.2f}"
    cells["clean flagged"] = f"{clean.sum():.0f} of {len(clean)}" if flags else ""
    cells["no value"] = str(len(kinds) - len(clean) - sum(map(len, by_kind.values())))
    return cells


def markdown(rows: Mapping[str, Mapping[str, str]]) -> str:
    """Return the cells as a Markdown table, one line per column of the features."""
    heads = ["column", *next(iter(rows.values()))]
    lines = [heads, ["---", *("---:" for _ in heads[1:])], *([name, *cells.values()] for name, cells in rows.items())]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Print the table of all columns of all features."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="folder of the store")
    parser.add_argument("--pool", default="pool", help="name of the pool")
    parser.add_argument("--features", nargs="+", required=True, help="names of features of the pool")
    parser.add_argument("--truth", default="noise", help="column of the pool's rows with the kind of noise")
    parser.add_argument("--words", nargs="*", default=["flags", "pii_kinds"], help="text columns of words to read")
    args = parser.parse_args()
    store = Store(args.store)
    rows = store.query(KINDS, {"pool": args.pool, "truth": args.truth})
    ids, kinds = rows["sample_id"].to_pylist(), rows["kind"].to_pylist()
    if not any(kinds):
        raise SystemExit(f"No row of the pool {args.pool!r} has a kind of noise in its column {args.truth!r}.")
    table = {}
    for features in args.features:
        for name, (values, flags) in columns_of(store, features, args.words).items():
            label = f"`{name}`" if len(args.features) == 1 else f"`{features}.{name}`"
            table[label] = row_of(kinds, [values.get(sample_id) for sample_id in ids], flags=flags)
    if not table:
        raise SystemExit(f"{', '.join(args.features)}: no numeric column has a value.")
    print(markdown(table))


if __name__ == "__main__":
    main()
