"""What curate makes of stock chat templates: `python benchmarks/templates.py --templates DIR [--trl] [--json FILE]`.

DIR holds chat templates as `*.jinja` files; nothing is downloaded. Each template renders eight chats
(template_oracle.py) with a tokenizer of bytes that has the template's special tokens. For each chat curate's encoder
gives samples or a refusal, which is `right`, `refused` with a true reason (the template raises, or it leaves
something out and the reason says so), `refused falsely`, or `wrong`. `--trl` also compares whole conversations with
TRL's `assistant_only_loss`, token for token.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.template_oracle import CASES, DAY, ChatCase, Tokens, Truth, counts, fault_of, ground, truth_of

SPECIAL = re.compile(
    r"<\|[^|<>\s'\"{}]{1,40}\|>|<｜[^｜<>\n'\"{}]{1,40}｜>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|"
    r"TOOL_RESULTS|TOOL_CONTENT|ARGS|CALL_ID|THINK|gMASK)\]|</?s>|<sop>|<[a-z]{2,5}_of_[a-z]+>|<turn\|>|"
    r"<\|turn>|<\|[a-z_]+>|<[a-z_]+\|>|\]~[!b]?b?\[|\[e~\[|<SPECIAL_\d+>|<extra_id_\d+>|<[A-Z_]+_TOKEN>"
)
"""What looks like a special token in the source of a template."""

ENDS = (
    "<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<turn|>", "<|END_OF_TURN_TOKEN|>", "<|return|>", "<|end|>",
    "<end_of_utterance>", "<｜end▁of▁sentence｜>", "<|endoftext|>", "<|user|>", "</s>",
)  # fmt: skip
"""Tokens that end a turn: the first that a template has is the tokenizer's end token."""

VERDICTS = ("right", "refused", "refused falsely", "wrong")


def tokenizer_for(template: str) -> Any:
    """Return a tokenizer of bytes with a chat template and the special tokens that its source has."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    names = [name for name in dict.fromkeys(SPECIAL.findall(template)) if "think" not in name and "tool" not in name]
    end = next((name for name in ENDS if name in names), "</s>")
    begin = next((name for name in names if re.search(r"begin|startoftext|bos|^<s>$", name)), "<s>")
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=begin, eos_token=end, pad_token="<|pad|>")
    made.add_special_tokens({"additional_special_tokens": [name for name in names if name not in (begin, end)]})
    made.chat_template = template
    return made


class Subject:
    """curate's encoder for one tokenizer, whatever of its interface this version has."""

    def __init__(self, tokenizer: Any) -> None:
        from curate.lm.tokens.encode import Encoder

        try:
            from curate.lm.templates.clock import freeze_date

            freeze_date(tokenizer, DAY)
        except ImportError:  # an older version reads the clock
            pass
        self.encoder: Any = Encoder(tokenizer, max_length=1 << 20)

    def encode(self, case: ChatCase) -> list[Tokens]:
        """Return the samples of a chat. Raises what the encoder raises."""
        from curate.samples import Sample

        whole = Sample([dict(message) for message in case.messages], tools=list(case.tools))
        if not (hasattr(self.encoder, "route") and self.encoder.route(whole).expand):
            return [self._tokens(whole, None)]
        return [
            self._tokens(
                Sample(list(whole.messages[: turn + 1]), tools=whole.tools, **{"answer": turn}),
                turn,
            )
            for turn in case.answers
        ]

    def _tokens(self, sample: Any, answer: int | None) -> Tokens:
        encoded = self.encoder(sample)
        if encoded.reject_reason:
            raise ValueError(encoded.reject_reason)
        return Tokens(encoded.input_ids.tolist(), encoded.target.tolist(), answer)


def judge(tokenizer: Any, subject: Subject, case: ChatCase, training: str | None = None) -> dict[str, Any]:
    """Return the verdict on one chat, with the reason and what the template itself does."""
    truth = truth_of(tokenizer, case, training)
    about = {"chat": case.name, "template raises": truth.error, "left out": truth.left_out}
    try:
        samples = subject.encode(case)
    except Exception as error:  # a crash is a refusal, too: its reason is then not true
        reason = f"{error}" if type(error).__name__ == "MaskError" else f"{type(error).__name__}: {error}"
        verdict = "refused" if ground(truth, reason) else "refused falsely"
        return about | {"verdict": verdict, "reason": reason}
    return about | _judged(tokenizer, samples, case, truth)


def _judged(tokenizer: Any, samples: Sequence[Tokens], case: ChatCase, truth: Truth) -> dict[str, Any]:
    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    special = frozenset(tokenizer.convert_tokens_to_ids(list(tokenizer.all_special_tokens)))
    route = "expand" if samples[0].answer is not None else "whole"
    if truth.error is not None:
        return {"verdict": "wrong", "route": route, "reason": "the template raises, and there is a sample"}
    faults = [fault for each in samples if (fault := fault_of(each, case, truth, decode, special))]
    texts = [decode(each.ids) for each in samples]
    marked = [[decode(each.ids[a:b]) for a, b in each.runs()] for each in samples]
    found = {"route": route, "texts": texts, "trained": marked}
    if faults:
        return found | {"verdict": "wrong", "reason": faults[0]}
    return found | {"verdict": "right", "reason": ""}


# TRL


def training_template(tokenizer: Any) -> tuple[str | None, bool]:
    """Return the template that TRL trains with, and whether TRL has one."""
    from trl.chat_template_utils import get_training_chat_template

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return get_training_chat_template(tokenizer) or tokenizer.chat_template, True
        except Exception:  # TRL has none, or its checks fail on the template
            return None, False


def compared_with_trl(tokenizer: Any, subject: Subject, case: ChatCase, training: str) -> str | None:
    """Return `equal`, `differs` or why there is nothing to compare; None if curate does not encode the chat whole."""
    from benchmarks.template_oracle import on_the_day

    try:
        samples = subject.encode(case)
    except Exception:  # refused
        return None
    if samples[0].answer is not None:
        return None
    try:
        with on_the_day():
            found = tokenizer.apply_chat_template(
                list(case.messages),
                tools=list(case.tools) or None,
                chat_template=training,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
    except Exception as error:  # TRL's template does not take this chat
        return f"TRL: {type(error).__name__}"
    if not any(found["assistant_masks"]):
        return "TRL trains on nothing"
    same = list(found["input_ids"]) == list(samples[0].ids)
    masks = [bool(mark) for mark in found["assistant_masks"]] == [bool(mark) for mark in samples[0].trained]
    return "equal" if same and masks else "differs"


def examine(path: Path, *, trl: bool) -> dict[str, Any]:
    """Return the verdicts on all chats for one template."""
    template = path.read_text(encoding="utf-8")
    tokenizer = tokenizer_for(template)
    subject = Subject(tokenizer)
    training, known = training_template(tokenizer) if trl else (None, False)
    rows = [judge(tokenizer, subject, case, training) for case in CASES]
    if known and training is not None:
        for row, case in zip(rows, CASES, strict=True):
            row["trl"] = compared_with_trl(tokenizer, subject, case, training)
    return {"template": path.stem, "chats": rows, "counts": counts(rows)}


LETTERS = {"right": "+", "refused": "r", "refused falsely": "F", "wrong": "W"}


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return the verdicts as a table: `+` right, `r` refused, `F` refused falsely, `W` wrong."""
    lines = [f"| template | {' | '.join(case.name for case in CASES)} |", "|---" * (len(CASES) + 1) + "|"]
    for result in results:
        cells = " | ".join(
            LETTERS[row["verdict"]] + ("e" if row.get("route") == "expand" else "") for row in result["chats"]
        )
        lines.append(f"| {result['template']} | {cells} |")
    return "\n".join(lines)


def totals(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the number of chats by verdict, and by the comparison with TRL."""
    rows = [row for result in results for row in result["chats"]]
    found: dict[str, Any] = {verdict: counts(rows).get(verdict, 0) for verdict in VERDICTS}
    found["refused: raises"] = sum(row["verdict"] == "refused" and bool(row["template raises"]) for row in rows)
    if compared := [row["trl"] for row in rows if row.get("trl")]:
        found["trl"] = {value: compared.count(value) for value in sorted(set(compared))}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Examine all templates of a folder and print the table and the totals."""
    parser = argparse.ArgumentParser(description=inspect.getdoc(sys.modules[__name__]))
    parser.add_argument("--templates", type=Path, required=True, help="folder with *.jinja files")
    parser.add_argument("--match", default="", help="regular expression that a template's name contains")
    parser.add_argument("--trl", action="store_true", help="compare masks with TRL's")
    parser.add_argument("--json", type=Path, help="file for all verdicts, reasons and texts")
    options = parser.parse_args(arguments)
    paths = [path for path in sorted(options.templates.glob("*.jinja")) if re.search(options.match, path.stem)]
    results = []
    for path in paths:
        results.append(examine(path, trl=options.trl))
        print(f"{path.stem}: {results[-1]['counts']}", file=sys.stderr, flush=True)
    print(table(results))
    print(json.dumps({"templates": len(results), **totals(results)}, indent=1))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    main()
