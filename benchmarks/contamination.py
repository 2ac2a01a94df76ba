"""Precision and recall of `curate decontaminate` on a pool with planted leaks, beside counts of shared 13-grams.

`python benchmarks/contamination.py FOLDER` reads `pool.parquet` and `targets.parquet` (columns instruction, input,
output, source) of a folder. Some targets are planted into the pool by rules; the table of synonyms is known to this
script only. A row of the pool that is not planted and is flagged is counted as another row: the script prints them, and
a reader has to say which of them hold a target, too.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from curate.stages.decontaminate.leaks import Held, Row, find_leaks

SYNONYMS = """
big large|quick fast|start begin|purchase buy|assist help|show display|make create|need require|get obtain|give provide
many numerous|often frequently|small little|finish end|choose select|ask inquire|find locate|correct right|answer reply
following subsequent|total overall|each every|cost price|money cash|car automobile|house home|kid child|people persons
use utilize|write compose|describe explain|list enumerate|important crucial|different distinct|happy glad|sad unhappy
city town|road street|job occupation|speak talk|walk stroll|look gaze|eat consume|food meal|story tale|idea concept
way manner|reason cause|result outcome|problem issue|function method|remove delete|string text|array list
sentence phrase|word term|person individual|movie film|book volume|company firm|country nation|sick ill|rich wealthy
poor needy|true correct|wrong incorrect|like enjoy|want desire|think believe|say state|see observe|know understand
take grab|come arrive|keep retain|let allow|put place|turn rotate|live reside|bring carry|happen occur|move shift
build construct|grow expand|spend pay|sell vend|hours hrs|minutes mins|generate produce|leave depart|tell inform
after following|before prior|also too|but however|because since|first initial|last final|new novel|old aged|good great
"""
TABLE = dict(pair.split() for line in SYNONYMS.split("\n") for pair in line.split("|") if pair)
OPTION = re.compile(r"(?:Answer\d:|\([A-Z]\)|^[A-Z][.)]|^-)\s+", re.MULTILINE)
KEPT_SHARE = 0.6
"""Share of the words that a truncated question keeps."""


def question(row: dict[str, Any]) -> str:
    return f"{row['instruction']}\n{row['input']}" if row["input"] else str(row["instruction"])


def reworded(text: str, rng: random.Random) -> str:
    """Return a text in capitals, with synonyms, without punctuation, and with numbers in another form."""
    text = re.sub(r"(?<![\w.,/])\d{4,}(?![\w.,/])", lambda match: f"{int(match[0]):,}", text)
    text = re.sub(r"(?<![\w.,/])[1-9]\d{0,2}(?![\w.,/])", lambda m: m[0] + ".0" * (rng.random() < 0.3), text)
    text = re.sub(r"[A-Za-z]+", lambda match: TABLE.get(match[0].lower(), match[0]), text)
    return re.sub(r"[;:!?\"']|[,.](?!\d)", " ", text).upper()


def reformatted(text: str, rng: random.Random) -> str | None:
    """Return a text with its options in another order and with other labels; None if it has none."""
    found = list(OPTION.finditer(text))
    if len(found) < 2:
        return None
    head, tail = text[: found[0].start()].rstrip(), text[found[-1].end() :].partition("\n")
    options = [text[a.end() : b.start()].strip() for a, b in pairwise(found)] + [tail[0].strip()]
    rng.shuffle(options)
    form = rng.choice(["{a}. ", "{n}) ", "({a}) "])
    lines = [form.format(n=n + 1, a="abcdefghijklmnopqrst"[n % 20]) + option for n, option in enumerate(options)]
    return "\n".join([head, *lines, tail[2]])


def planted(rows: list[dict[str, Any]], targets: list[dict[str, Any]], count: int) -> list[tuple[str, int, str, str]]:
    """Return planted rows: rule, target, question, answer. Where the answer is not the target's it is another row's."""
    rng = random.Random(0)
    found: list[tuple[str, int, str, str]] = []
    for number in sorted(rng.sample(range(len(targets)), min(count, len(targets)))):
        row, (one, two) = targets[number], rng.sample(rows, 2)
        text, answer, other = question(row), row["output"], two["output"]
        words = text.split(" ")
        found.append(("verbatim", number, text, other))
        found.append(("truncated", number, " ".join(words[: int(len(words) * KEPT_SHARE)]), other))
        found.append(("reworded", number, reworded(text, rng), other))
        found.append(("embedded", number, f"{question(one)}\n\n{text}\n\n{one['output']}", other))
        if len(answer.split()) >= 15:
            found.append(("answer", number, question(two), answer))
        if (changed := reformatted(text, rng)) is not None:
            found.append(("options", number, changed, other))
    return found


def by_curate(rows: list[Row], held: list[Held]) -> set[int]:
    return {leak.row.position for leak in find_leaks(lambda: rows, held, 0.4)}


def grams(text: str, size: int = 13) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[place : place + size]) for place in range(len(words) - size + 1)}


def by_grams(rows: list[Row], held: list[Held]) -> set[int]:
    """Return the rows that share a sequence of 13 words with a target."""
    known = {gram for each in held for gram in grams(f"{each.row.question} {each.row.answer}")}
    return {row.position for row in rows if not known.isdisjoint(grams(f"{row.question} {row.answer}"))}


def by_janitor(rows: list[Row], held: list[Held]) -> set[int] | None:
    """Return the rows that lm-eval's Janitor changes; None if lm-eval is not installed."""
    try:
        from lm_eval.decontamination.janitor import Janitor
    except ImportError:
        return None
    janitor = Janitor()
    for each in held:
        janitor.register_contaminant_python(f"{each.row.question} {each.row.answer}")
    texts = {row.position: f"{row.question} {row.answer}" for row in rows}
    return {position for position, text in texts.items() if janitor.clean_python(text) != [text]}


METHODS: dict[str, Callable[[list[Row], list[Held]], set[int] | None]] = {
    "curate decontaminate": by_curate,
    "a 13-gram in common": by_grams,
    "lm-eval's Janitor": by_janitor,
}


def measure(folder: Path, count: int) -> Iterable[dict[str, Any]]:
    """Yield one result for each method."""
    pool = pq.read_table(folder / "pool.parquet").to_pylist()
    targets = pq.read_table(folder / "targets.parquet").to_pylist()
    rules = planted(pool, targets, count)
    rows = [Row(str(n), n, question(row), row["output"]) for n, row in enumerate(pool)]
    rows += [Row(f"planted {n}", len(pool) + n, text, answer) for n, (_, _, text, answer) in enumerate(rules)]
    held = [Held(Row(str(n), n, question(row), row["output"]), "targets") for n, row in enumerate(targets)]
    totals = Counter(rule for rule, *_ in rules)
    for name, method in METHODS.items():
        start = time.process_time()
        flagged = method(rows, held)
        if flagged is None:
            continue
        found = Counter(rule for n, (rule, *_) in enumerate(rules) if len(pool) + n in flagged)
        others = sorted(position for position in flagged if position < len(pool))
        yield {
            "pool": folder.name,
            "method": name,
            "seconds": round(time.process_time() - start, 1),
            "planted": {rule: [found[rule], totals[rule]] for rule in totals},
            "recall": sum(found.values()) / len(rules),
            "others": len(others),
            "by source": dict(Counter(pool[position]["source"] for position in others).most_common(3)),
            "first": [question(pool[position])[:160] for position in others[:30]] if method is by_curate else [],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of pool.parquet and targets.parquet")
    parser.add_argument("--count", type=int, default=400, help="number of targets to plant")
    given = parser.parse_args()
    for result in measure(given.folder, given.count):
        print(json.dumps(result, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
