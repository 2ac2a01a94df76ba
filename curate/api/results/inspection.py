"""The result of `Store.inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import pyarrow as pa

from ...runtime.terminal import cell
from ...runtime.terminal import summary as text_summary
from ..commands.inspection import Inspection, TokenizedSample, about, segments
from . import html, pictures
from .shown import Shown


class InspectionResult(Shown):
    """Samples as a model sees them, and the statistics of their pool.

    Args:
        inspection: the inspection.
    """

    def __init__(self, inspection: Inspection) -> None:
        self.inspection = inspection

    @property
    def summary(self) -> Mapping[str, Any]:
        """Statistics of the whole pool, as the command prints them."""
        return self.inspection.summary

    def arrow(self) -> pa.Table:
        """Return the shown samples, one row each: ids, counts of tokens, and the text with the trained parts."""
        rows = [self._row(tokenized) for tokenized in self.inspection.samples]
        schema = pa.schema(
            [
                ("sample_id", pa.string()),
                ("position", pa.int64()),
                ("source", pa.string()),
                ("tokens", pa.int64()),
                ("target_tokens", pa.int64()),
                ("reject_reason", pa.string()),
                ("parts", pa.list_(pa.struct([("text", pa.string()), ("trained", pa.bool_())]))),
                ("input_ids", pa.list_(pa.int64())),
            ]
        )
        return pa.Table.from_pylist(rows, schema=schema)

    def _row(self, tokenized: TokenizedSample) -> dict[str, Any]:
        row = {
            "sample_id": tokenized.sample.sample_id,
            "position": tokenized.position,
            "source": tokenized.sample.source,
            "reject_reason": tokenized.reject_reason,
        }
        if tokenized.encoded is None:
            return row
        cut = tokenized.encoded.truncate(self.inspection.max_length)
        parts = [{"text": text, "trained": trained} for text, trained in segments(cut, self.inspection.tokenizer)]
        counts = {"tokens": cut.length, "target_tokens": cut.target_tokens}
        return row | counts | {"parts": parts, "input_ids": cut.input_ids.tolist()}

    def __str__(self) -> str:
        return "\n".join(text_summary(self.summary))

    def _repr_html_(self) -> str:
        found = self.inspection
        heading = f"Tokens that {found.trains_on} are shown <mark>like this</mark>. {escape(found.heading)}"
        shown = "".join(map(self._sample, found.samples))
        return f"<div>{self._picture()}{html.summary(self.summary)}{f'<p>{heading}</p>' if shown else ''}{shown}</div>"

    def _sample(self, tokenized: TokenizedSample) -> str:
        found, sample = self.inspection, tokenized.sample
        title = f"{html.text_of(sample.sample_id)} (row {tokenized.position}, from {html.text_of(sample.source)})"
        text = ""
        if tokenized.encoded is not None:
            parts = segments(tokenized.encoded.truncate(found.max_length), found.tokenizer)
            text = "".join(f"<mark>{escape(part)}</mark>" if trained else escape(part) for part, trained in parts)
        return f"<p><b>{title}</b><br>{html.text_of(about(tokenized, found.max_length))}</p><pre>{text}</pre>"

    def _picture(self) -> str:
        """Return percentiles of the lengths as bars."""
        lengths = self.summary.get("tokens per sample") or []
        values = [
            (f"{cell(row[''])}, {name}", float(count)) for row in lengths for name, count in row.items() if name != ""
        ]
        return pictures.bars(values, title="tokens per sample")
