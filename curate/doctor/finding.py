"""What a look at one thing says: a line for people, the same for machines, and whether a run would stop at it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["fine", "note", "wrong"]
SIGNS: Mapping[Verdict, str] = {"fine": " ", "note": "!", "wrong": "x"}
"""How a verdict is shown in front of its line."""


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        what: the thing.
        said: what was found, in plain words.
        verdict: `wrong` would stop a run; a `note` is worth knowing.
        advice: what to do, where something is to be done.
        details: numbers for machines.
    """

    what: str
    said: str
    verdict: Verdict = "fine"
    advice: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


Sections = Mapping[str, Sequence[Finding]]


def lines(sections: Sections) -> list[str]:
    """The findings as text, a heading each; what is wrong is said again at the end."""
    out: list[str] = []
    for title, findings in sections.items():
        width = max((len(finding.what) for finding in findings), default=0)
        out += [title, *(_line(finding, width) for finding in findings), ""]
    wrong = failures(sections)
    if not wrong:
        return [*out, "Nothing is wrong." + (" Lines with ! are worth a look." if _any(sections, "note") else "")]
    return [*out, f"Wrong ({len(wrong)}):", *(f"  {f.what}: {f.said}. {f.advice}".rstrip() for f in wrong)]


def _line(finding: Finding, width: int) -> str:
    advice = f"  {finding.advice}" if finding.advice else ""
    return f"{SIGNS[finding.verdict]} {finding.what:<{width}}  {finding.said}{advice}".rstrip()


def failures(sections: Sections) -> list[Finding]:
    """What would stop a run."""
    return [finding for findings in sections.values() for finding in findings if finding.verdict == "wrong"]


def _any(sections: Sections, verdict: Verdict) -> bool:
    return any(finding.verdict == verdict for findings in sections.values() for finding in findings)


def as_data(sections: Sections) -> dict[str, Any]:
    """The same for machines: `ok`, and the findings of every section."""
    return {"ok": not failures(sections)} | {
        title.partition(" (")[0].lower().replace(" ", "_"): [asdict(finding) for finding in findings]
        for title, findings in sections.items()
    }


def said_by(error: BaseException, most: int = 200) -> str:
    """An error in one line, of which the first words count."""
    return (" ".join(str(error).split()) or type(error).__name__)[:most].rstrip(".")


def joined(names: Iterable[str]) -> str:
    """`a, b, c`."""
    return ", ".join(names)
