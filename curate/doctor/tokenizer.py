"""Check that the tokenizer of a planned run fits its model: its padding, its other tokens, the length of texts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ArtifactNotFound, ModelError
from ..stages.pools import pool_samples
from .finding import Finding, one_line

if TYPE_CHECKING:
    from ..lm.input_limits import InputLimits
    from ..lm.model.config_checks import ModelOptions
    from ..store import Store

SHOWN = 3
"""Tokens without a row that a line names, at most."""


def check(options: ModelOptions, store: Store, pool: str | None, max_length: int) -> list[Finding]:
    """Return the findings about a model's tokenizer. The weights are not read, and no network is used.

    Args:
        options: options for loading; the location of a model on the Hub is not examined.
        store: the store of the pool.
        pool: name of the pool, whose texts are searched for tokens without a row; or None.
        max_length: maximum number of tokens of a text.
    """
    from ..lm.input_limits import InputLimits, tokens_outside
    from ..lm.model.config_checks import build_without_data
    from ..lm.model.load import load_tokenizer
    from ..lm.model.memory import config_of

    if not Path(options.location).exists():
        return []
    try:
        tokenizer = load_tokenizer(options)
        limits = InputLimits.of(build_without_data(config_of(options), options))
        limits.require_padding(tokenizer)
    except ModelError as error:
        return [Finding("tokenizer", one_line(error, 500), "wrong")]
    outside = tokens_outside(tokenizer, limits.rows)
    outside.pop(str(tokenizer.pad_token), None)
    return [*_outside(outside, limits, store, pool), *_positions(limits, max_length)]


def _outside(outside: dict[str, int], limits: InputLimits, store: Store, pool: str | None) -> Iterator[Finding]:
    if not outside:
        return
    named = ", ".join(f"{token!r} (id {number:,})" for token, number in list(outside.items())[:SHOWN])
    message = f"the embedding of {limits.model} has {limits.rows:,} rows, and none for {named}"
    if len(outside) > SHOWN:
        message += f" and {len(outside) - SHOWN:,} other tokens"
    found = _first_with(list(outside), store, pool)
    details = {"rows": limits.rows, "tokens": len(outside)}
    if found is not None:
        advice = "Use the tokenizer that belongs to the model, or remove the token from the texts."
        yield Finding("tokenizer", f"{message}, which stands in sample {found}", "wrong", advice, details)
    else:
        yield Finding("tokenizer", message, "note", "A text with such a token stops the run before it begins.", details)


def _first_with(tokens: Sequence[str], store: Store, pool: str | None) -> str | None:
    """Return the id of the first sample of a pool with one of the tokens in its text."""
    from ..store import POOLS

    try:
        samples = pool_samples(store.get(pool, *POOLS)) if pool is not None else ()
    except ArtifactNotFound:  # another finding says so
        return None
    for _, sample in samples:
        text = json.dumps([dict(message) for message in sample.messages], ensure_ascii=False, default=str)
        if any(token in text for token in tokens):
            return sample.sample_id
    return None


def _positions(limits: InputLimits, max_length: int) -> Iterator[Finding]:
    if limits.positions is not None and max_length > limits.positions:
        message = f"{limits.model} has {limits.positions:,} learned positions, and --max-length is {max_length:,}"
        advice = f"A longer text stops the run before it begins: give --max-length {limits.positions}."
        yield Finding("positions", message, "note", advice, {"positions": limits.positions})
