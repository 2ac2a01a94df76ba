"""The command `curate inspect`: print a pool as the model will see it, before any training.

The command prints a few samples token by token, with the tokens that the loss trains on marked, and then the counts of
the tokens of the whole pool. `curate.api.commands.inspection` makes them.
"""

from __future__ import annotations

import sys

from ..api.commands.inspection import (
    InspectConfig,
    Inspection,
    TokenizedSample,
    about,
    inspect_pool,
    segments,
)
from ..runtime.terminal import BOLD_UNDERLINED, PLAIN, cell, say, summary
from ..samples import answer_turns
from ..store import Store
from .flags import with_flags

EXAMPLES = """\
curate inspect --pool pool --model Qwen/Qwen2.5-0.5B
curate inspect --pool pool --model M --chat-template chatml --max-length 1024 --samples 10
curate inspect --pool pool --model M --sample-id 3f0c5d2e9b7a41f68c1d0e2b4a597683
curate inspect --pool pool --model M --run q --step 3
"""


def inspect(store: Store, config: InspectConfig) -> None:
    """Run `curate inspect`: print samples as the model will see them, then the statistics of the pool."""
    found = inspect_pool(store, config)
    brackets = (BOLD_UNDERLINED, PLAIN) if sys.stdout.isatty() else ("⟦", "⟧")
    first = f"Tokens that {found.trains_on} are shown {brackets[0]}like this{brackets[1]}."
    lines = [f"{first} {found.heading}".rstrip(), ""] if found.samples else []
    for tokenized in found.samples:
        lines += [*sample_lines(tokenized, found, brackets), ""]
    say(*lines, *summary(found.summary), marked=True, hide_secrets=False)


def sample_lines(tokenized: TokenizedSample, found: Inspection, brackets: tuple[str, str]) -> list[str]:
    """Return the printed lines of a sample: its row, its text with the trained tokens marked, and its token ids."""
    sample = tokenized.sample
    title = (
        f"Sample {cell(sample.sample_id)} (row {tokenized.position} of {cell(found.pool)}, from {cell(sample.source)})"
    )
    if tokenized.answers:
        number = len(answer_turns(sample.messages))
        whole = cell(sample.conversation_id)
        title += f"\nanswer {number} of {tokenized.answers}, in message {sample.answer} of conversation {whole}"
    if tokenized.encoded is None:
        return [title, about(tokenized, found.max_length)]
    encoded = tokenized.encoded.truncate(found.max_length)
    parts = segments(encoded, found.tokenizer)
    text = "".join(f"{brackets[0]}{part}{brackets[1]}" if trained else part for part, trained in parts)
    end = ["[cut here]"] if encoded.truncated else []
    ids = " ".join(map(str, encoded.input_ids.tolist()))
    return [title, about(tokenized, found.max_length), "", text, *end, "", f"ids {ids}"]


command = with_flags(InspectConfig, lambda root, config: inspect(Store(root), config))
