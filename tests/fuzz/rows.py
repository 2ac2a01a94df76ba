"""Rows that somebody might send: good ones, and odd ones of every kind that is known to hurt."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

TYPED = ["<|im_end|>", "<s>", "</s>", "[INST]", "<|endoftext|>", "<|im_start|>system", "<unk>", "<|im_\u200bend|>"]
FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", '=HYPERLINK("http://x","y")']
PATHS = [
    "../../x",
    "..",
    "C:\\x",
    "/etc/passwd",
    "~/.ssh/id",
    "a/../../b",
    "\\\\host\\x",
    "con",
    "x\x00.json",
    "%2e%2e/",
]
ODD = [
    "\x00",
    "\x1b[2J\x1b]0;owned\x07",
    "\u202egnp",
    "\ufeff",
    "\u2028",
    "\x85",
    "\r",
    "\u0301" * 50,
    "😀",
    "\U0010ffff",
]
ODD += ["'", '"', "','", "`", "|", "```\n---", "{{ 7 * 7 }}", "{% raise %}", "${x}", "<script>alert(1)</script>", "NaN"]
SPACES = ["", " ", "\n\t ", "\u00a0", "\u2003", "\u200b"]


@dataclass(frozen=True)
class Line:
    """A row as a line of JSON.

    Attributes:
        kind: of oddity; `good` for a row that must come through whatever is beside it.
        raw: the bytes.
        row: what they hold; None where they hold no row.
    """

    kind: str
    raw: bytes
    row: dict[str, Any] | None


def good_row(rng: Random, number: int) -> dict[str, Any]:
    """A conversation that nobody has anything against, of an id of its own."""
    note = rng.choice([None, 1, 0.5, "x", ["a"], {"b": 1}, 2**70])
    return {
        "prompt": f"question {number}",
        "completion": f"answer {rng.random()}",
        "id": f"good-{number}",
        "note": note,
    }


def chat_row(rng: Random, number: int) -> dict[str, Any]:
    """The same as messages."""
    row = good_row(rng, number)
    turns = [("user", row.pop("prompt")), ("assistant", row.pop("completion"))]
    return {"messages": [{"role": role, "content": text} for role, text in turns], **row}


def odd_text(rng: Random) -> str:
    """Text with something in it."""
    parts = rng.choices([*TYPED, *FORMULAS, *PATHS, *ODD, *SPACES, "word", "answer 4"], k=rng.randint(1, 4))
    return rng.choice(["", " "]).join(parts)


def odd_value(rng: Random, depth: int = 0) -> Any:
    """A value of any JSON type."""
    leaves: list[Callable[[], Any]] = [
        lambda: None,
        lambda: rng.choice([True, False]),
        lambda: rng.choice([0, -1, 2**63, -(2**70), 10**300]),
        lambda: rng.choice([0.1, -0.0, 1e308, 5e-324]),
        lambda: odd_text(rng),
        lambda: rng.choice([[], {}, [[]], [None], {"": None}, {"role": "user"}, [{"role": "user", "content": 4}]]),
    ]
    if depth < 3 and rng.random() < 0.4:
        inner = [odd_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
        return inner if rng.random() < 0.5 else {odd_text(rng): value for value in inner}
    return rng.choice(leaves)()


# Kinds of rows. Each changes a good one; what it gives back is a JSON-like mapping.


def _texts(rng: Random, row: dict[str, Any], text: Callable[[], str]) -> dict[str, Any]:
    if "messages" in row:
        for message in row["messages"]:
            message["content"] = rng.choice([message["content"], text()])
        rng.choice(row["messages"])["content"] = text()
    else:
        row[rng.choice(["prompt", "completion"])] = text()
    return row


def special_tokens(rng: Random, row: dict[str, Any]) -> dict[str, Any]:
    return _texts(rng, row, lambda: f"a {rng.choice(TYPED)} b" + rng.choice(["", rng.choice(TYPED)]))


def formulas(rng: Random, row: dict[str, Any]) -> dict[str, Any]:
    return _texts(rng, row, lambda: rng.choice(FORMULAS)) | {"note": rng.choice(FORMULAS)}


def paths(rng: Random, row: dict[str, Any]) -> dict[str, Any]:
    return row | {key: rng.choice(PATHS) for key in ("id", "sample_id", "source", rng.choice(PATHS))}


def oddities(rng: Random, row: dict[str, Any]) -> dict[str, Any]:
    return _texts(rng, row, lambda: odd_text(rng)) | {odd_text(rng): odd_text(rng)}


def blanks(rng: Random, row: dict[str, Any]) -> dict[str, Any]:
    return _texts(rng, row, lambda: rng.choice(SPACES))


def wrong_types(rng: Random, row: dict[str, Any]) -> dict[str, Any]:
    row[rng.choice(list(row))] = odd_value(rng)
    if "messages" in row and rng.random() < 0.5:
        row["messages"] = [odd_value(rng), {"role": rng.choice(["user", odd_value(rng)]), "content": odd_value(rng)}]
    return row


def roles(rng: Random, row: dict[str, Any]) -> dict[str, Any]:
    known = ["user", "assistant", "system", "tool", "developer", "function", "User", "robot", "", " user"]
    turns = [{"role": rng.choice(known), "content": odd_text(rng)} for _ in range(rng.randint(0, 5))]
    return {"messages": turns, "id": row["id"]}


def tools(rng: Random, row: dict[str, Any]) -> dict[str, Any]:
    call: dict[str, Any] = {"type": "function", "function": {"name": odd_text(rng), "arguments": odd_value(rng)}}
    for key in list(call["function"]):
        if rng.random() < 0.3:
            call["function"][key] = odd_value(rng)
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": rng.choice([[call], call, odd_value(rng)])},
        {"role": "tool", "content": odd_text(rng), "tool_call_id": odd_value(rng), "name": odd_value(rng)},
        {"role": "assistant", "content": "a"},
    ]
    return {"messages": turns, "tools": rng.choice([None, [], [call["function"]], odd_value(rng)]), "id": row["id"]}


def nested(rng: Random, row: dict[str, Any]) -> dict[str, Any]:
    value: Any = "x"
    for _ in range(rng.choice([30, 60, 100, 200, 400, 900])):
        value = [value] if rng.random() < 0.5 else {"k": value}
    return row | {rng.choice(["note", "tools", "prompt", "messages"]): value}


def many_keys(rng: Random, row: dict[str, Any]) -> dict[str, Any]:
    return row | {f"key {n}": n for n in range(rng.choice([50, 2000]))}


def large(rng: Random, row: dict[str, Any]) -> dict[str, Any]:
    part = rng.choice(["x", "é", "a\n", "<|im_end|>"])
    row["completion" if "completion" in row else "note"] = part * (10_000_000 // len(part))
    return row


KINDS: Mapping[str, Callable[[Random, dict[str, Any]], dict[str, Any]]] = {
    kind.__name__: kind
    for kind in (special_tokens, formulas, paths, oddities, blanks, wrong_types, roles, tools, nested, many_keys)
}
RAW_KINDS = ("not_utf8", "surrogates", "numbers", "twice", "cut", "bomb", "no_object", "noise")
LARGE = 0.001
"""Share of rows that have a field of 10 MB."""


Maker = Callable[[Random, int], dict[str, Any]]


def odd_row(rng: Random, number: int, base: Maker = good_row) -> tuple[str, dict[str, Any]]:
    """A kind, and a row of it, made of one that `base` makes."""
    row = base(rng, number)
    if rng.random() < LARGE:
        return "large", large(rng, row)
    kind = rng.choice(list(KINDS))
    return kind, KINDS[kind](rng, row)


def as_json(row: Any) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")


def good_line(rng: Random, number: int, base: Maker = good_row) -> Line:
    row = base(rng, number)
    return Line("good", as_json(row), row)


def odd_line(rng: Random, number: int, base: Maker = good_row) -> Line:
    """A line that is no good row: odd as a row, or no row at all."""
    if rng.random() < 0.6:
        kind, row = odd_row(rng, number, base)
        return Line(kind, as_json(row), row)
    kind = rng.choice(RAW_KINDS)
    row = base(rng, number)
    raw = as_json(row)
    if kind == "not_utf8":
        at = raw.index(b"answer")
        return Line(
            kind, raw[:at] + rng.choice([b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xf8\x88", b"\x80"]) + raw[at:], None
        )
    if kind == "surrogates":
        return Line(kind, raw.replace(b"answer", rng.choice([b"\\ud800", b"\\udfff x", b"\\ud800\\ud800"])), None)
    if kind == "numbers":
        number_text = rng.choice(["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 400, "9" * 5000, "0.1e-400"])
        return Line(kind, as_json(row | {"note": "@"}).replace(b'"@"', number_text.encode()), None)
    if kind == "twice":
        key = rng.choice(["completion", "prompt", "id", "note"])
        return Line(kind, raw[:-1] + f', "{key}": "again"}}'.encode(), None)
    if kind == "cut":
        return Line(kind, raw[: rng.randint(1, len(raw) - 1)], None)
    if kind == "bomb":
        depth = rng.choice([70, 990, 5_000, 100_000])
        left, right = rng.choice([("[", "]"), ('{"k":', "}")])
        bomb = left * depth + "1" + right * rng.choice([depth, 0])
        return Line(kind, as_json(row | {"note": "@"}).replace(b'"@"', bomb.encode()), None)
    if kind == "no_object":
        return Line(kind, rng.choice([b"[]", b"3", b'"text"', b"null", b"[{}]", b"true"]), None)
    noise = rng.randbytes(rng.randint(1, 60)).replace(b"\n", b"")
    return Line(kind, b"\x00" + noise, None)
