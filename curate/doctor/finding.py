"""The result of one check: a line for people, the same data as JSON, and whether the result would stop a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["fine", "note", "wrong"]
SIGNS: Mapping[Verdict, str] = {"fine": " ", "note": "!", "wrong": "x"}
"""Sign at the start of a line, by verdict."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        what: the subject of the line, such as a package or a device.
        message: the result of the check, in words.
        verdict: `wrong` would stop a run; `note` does not, but the user should know it; else `fine`.
        advice: a sentence that says what to do; may be empty.
        details: numbers for programs that read the JSON.
    """

    what: str
    message: str
    verdict: Verdict = "fine"
    advice: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


Sections = Mapping[str, Sequence[Finding]]


def lines(sections: Sections) -> list[str]:
    """Return the findings as lines, with a heading for each section. The end repeats the findings that are wrong."""
    out: list[str] = []
    for title, findings in sections.items():
        width = max((len(finding.what) for finding in findings), default=0)
        out += [title, *(_line(finding, width) for finding in findings), ""]
    wrong = failures(sections)
    if not wrong:
        return [*out, "No problem found." + (" Please read the lines with !." if _any(sections, "note") else "")]
    return [*out, f"Problems ({len(wrong)}):", *(f"  {f.what}: {f.message}. {f.advice}".rstrip() for f in wrong)]


def _line(finding: Finding, width: int) -> str:
    advice = f"  {finding.advice}" if finding.advice else ""
    return f"{SIGNS[finding.verdict]} {finding.what:<{width}}  {finding.message}{advice}".rstrip()


def failures(sections: Sections) -> list[Finding]:
    """Return the findings that would stop a run."""
    return [finding for findings in sections.values() for finding in findings if finding.verdict == "wrong"]


def _any(sections: Sections, verdict: Verdict) -> bool:
    return any(finding.verdict == verdict for findings in sections.values() for finding in findings)


def as_data(sections: Sections) -> dict[str, Any]:
    """Return the findings as data for JSON: `ok`, and the list of findings of each section."""
    return {"ok": not failures(sections)} | {
        title.partition(" (")[0].lower().replace(" ", "_"): [asdict(finding) for finding in findings]
        for title, findings in sections.items()
    }


def one_line(error: BaseException, most: int = 200) -> str:
    """Return the text of an error as one line of at most `most` characters."""
    return (" ".join(str(error).split()) or type(error).__name__)[:most].rstrip(".")


def joined(names: Iterable[str]) -> str:
    """Return the names with commas between them: `a, b, c`."""
    return ", ".join(names)
