"""Make a small model, pools, their exports for one trainer, and the tokens that curate would train on.

`python -m tests.neighbours.make TRAINER FOLDER` writes FOLDER/model, FOLDER/exports/* and FOLDER/plan.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from curate.demo.model import build_model, save, train_tokenizer
from curate.errors import DataError
from curate.lm.tokens.encode import Encoder, MaskError
from curate.samples import Sample
from curate.stages import make
from curate.stages.export.differences import findings_of
from curate.stages.export.trainers import TRAINER_FORMATS
from curate.stages.pools import pool_samples
from curate.store import Store

from .pools import POOLS, TEMPLATE

LENGTH = 4096
"""Most tokens of a text; no sample is longer."""


def expected(sample: Sample, encoder: Encoder, trainer: str, row_format: str) -> dict[str, Any]:
    """Return what curate trains on: ids, mask, and what the export says that the trainer does differently."""
    found = [list(finding) for finding in findings_of(sample, trainer, row_format)]
    known = {"sample_id": sample.sample_id, "found": found, "tools": bool(sample.tools)}
    known["spelled"] = any("<|" in (message.get("content") or "") for message in sample.messages)
    try:
        encoded = encoder(sample)
    except MaskError as error:
        return known | {"ids": None, "mask": None, "error": str(error)}
    return known | {"ids": encoded.input_ids.tolist(), "mask": encoded.target.astype(int).tolist()}


def main(trainer: str, folder: Path) -> None:
    import torch

    tokenizer = train_tokenizer(0, 600)
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    save(build_model(tokenizer, hidden_size=16, layers=1, heads=2, positions=LENGTH), tokenizer, folder / "model")
    os.chdir(folder)
    store, encoder = Store("store"), Encoder(tokenizer, max_length=LENGTH)
    plan = []
    for name, rows in POOLS.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        pool = make(store, "ingest", data=f"{name}.jsonl", name=name)
        samples = [sample for _, sample in pool_samples(pool)]
        assert len(samples) == len(rows), f"{name}: {len(samples)} of {len(rows)} rows"
        sql = f"SELECT sample_id FROM samples WHERE pool = '{name}' ORDER BY position"
        for row_format in TRAINER_FORMATS[trainer].formats:
            entry: dict[str, Any] = {"pool": name, "format": row_format, "name": f"{name}-{row_format}"}
            entry["expected"] = [expected(sample, encoder, trainer, row_format) for sample in samples]
            try:
                make(store, "export", sql=sql, pool=name, trainer=trainer, format=row_format, name=entry["name"])
            except DataError as error:
                plan.append(entry | {"refused": str(error)})
                continue
            plan.append(entry | {"card": Path("exports", entry["name"], "README.md").read_text(encoding="utf-8")})
    Path("plan.json").write_text(json.dumps(plan))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve())
