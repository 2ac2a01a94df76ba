"""The words of the project: plain English and the field's own terms. The words that went do not come back.

Run it as a program for a list with files and lines: python -m tests.project.test_language [PATH ...]
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

IDENTIFIERS = {
    "Eyes": "ScoringModel",
    "eyes": "scoring_model",
    "look_into": "make_scoring_model",
    "prove": "verify_head",
    "Spreading": "ExecutionOptions",
    "Crew": "Executor",
    "crew_of": "executor_for",
    "Share": "LocalExecutor",
    "Team": "RayActorExecutor",
    "Maker": "Worker",
    "Piece": "Task",
    "Examination": "EvaluationPass",
    "Examiner": "Evaluator",
    "Paper": "EvaluatedSample",
    "Unmarkable": "NotScorable",
    "Speaker": "Generator",
    "Look": "CheckpointGradients",
    "Scorer": "CheckpointScorer",
    "Worth": "CurrentModelScorer",
    "Chooser": "EpochSubsets",
    "Rounded": "ReselectionOptions",
    "Rounds": "EpochDataset",
    "Reselect": "ReselectCallback",
    "Course": "SamplingOrder, Trajectory",
    "Standing": "RunAtBudget",
    "Making": "RunProgress",
    "Online": "BatchSelectorSpec",
    "Offline": "PoolSelectorSpec",
    "Job": "TrainingJob",
    "Outcome": "TrainingResult, TokenizationReport",
    "fine_tune": "train",
    "SelectingTrainer": "CurateTrainer",
    "Keeper": "CheckpointCallback",
    "Tally": "Counters",
    "Sink": "LedgerWriter",
    "Ranks": "ProcessGroup",
    "apart": "per_rank",
    "Facts": "RunInfo",
    "Influence": "GradientFeatures",
    "Measured": "CandidateMeasurements",
    "TargetStream": "TargetSampler",
    "CandidateStream": "CandidateSampler",
    "StreamLoader": "CandidateLoader",
    "Room": "RemainingBudget, Resources",
    "seal": "write_manifest",
    "sealed": "read_manifest",
    "damaged": "find_damage",
    "put_away": "move_to_merged",
    "LABELS": "NAME_COLUMNS",
    "LINKS": "LINK_COLUMNS",
    "everything": "artifacts_and_drafts",
    "must_exist": "require",
    "settle": "commit, fsync_file",
    "Background": "WriterThread",
    "Mark": "FieldRole",
    "INERT": "NOT_HASHED",
    "places": "locations, positions",
    "WARM": "CHECKPOINT_FIELDS",
    "Asking": "QueryOptions",
    "Asked": "ExportRequest",
    "Wish": "ReportRequest",
    "Tokenizing": "TokenizerSettings",
    "Reading": "ModelSettings",
    "ControlTokens": "SpecialTokens",
    "Unhidable": "CannotEscape",
    "UNTOLD": "NO_MASK",
    "TYPED": "SPECIAL_TOKENS_IN_TEXT",
    "Numbered": "WithRowIds",
    "Places": "PoolPositions",
    "as_they_are": "no_collate",
    "ScriptRun": "ExternalRun",
    "goes_on": "resume_at",
    "abandon": "fail",
    "Census": "PoolStatistics",
    "Seen": "IdSet, TokenizedSample",
    "told": "reported, recorded",
    "said": "message, text",
    "leftovers": "find_leftovers",
}
"""Name that went -> the name that came."""
ALLOWED = {
    "curate/integrations/batch_selector.py": {"settle"},  # a public method
    "curate/integrations/trainer.py": {"settle"},  # calls that public method
}
"""File -> names that it may use all the same, each with a reason."""

PROSE = {
    r"anew": "again",
    r"whoever|whomever": "the process that, the user who",
    r"whatever": "any",
    r"nobody|somebody": "no user, another process",
    r"beside": "next to, with",
    r"wants": "needs",
    r"(?:is|are|was|were|be|been|being) (?:told|said)": "is reported, the message names",
    r"(?:is|are) had": "is available",
    r"in silence": "silently",
    r"control tokens?": "special token",
    r"leaves? (?:it|them) be": "is unchanged",
    r"mend(?:s|ed|ing)?": "fix",
    r"upkeep": "maintenance",
    r"seal(?:s|ed|ing)?": "manifest",
    r"namesakes?": "records of the same fingerprint",
}
"""Pattern of a word or phrase that went -> what to write."""

OPENINGS = re.compile(
    r"(What|How|Which|Whether|Who|Whose|Whoever|Whatever|Where|When|Why|Of|That|Those|These|It|Its|They|This is)\b"
)
"""A docstring begins with a verb or a noun of the field, never with one of these."""

CODE = sorted((ROOT / "curate").rglob("*.py"))
TEXT = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "configs/**/*.yaml", "pipelines/*.yaml", "store/**/*.sql", "store/*.md")
    for path in ROOT.glob(pattern)
) + sorted((ROOT / "curate").rglob("*.sql"))
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def in_prose(text: str) -> Iterator[tuple[int, str]]:
    """Line within the text, and the complaint."""
    for pattern, instead in PROSE.items():
        for found in re.finditer(rf"(?<![\w`-])(?:{pattern})(?![\w-])", text, re.IGNORECASE):
            yield text.count("\n", 0, found.start()), f"'{found[0]}': write {instead}"


def in_code(path: Path) -> Iterator[tuple[int, str]]:
    """Names, comments and strings of a module."""
    allowed = ALLOWED.get(named(path), set())
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.NAME and token.string in IDENTIFIERS and token.string not in allowed:
            yield token.start[0], f"'{token.string}' is now {IDENTIFIERS[token.string]}"
        elif token.type in (tokenize.COMMENT, tokenize.STRING):
            yield from ((token.start[0] + line, what) for line, what in in_prose(token.string))


def in_docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Docstrings of modules, classes, functions and constants that begin with a question word or a pronoun."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        text = node.value.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else None
        if isinstance(text, str) and (found := OPENINGS.match(text.lstrip())):
            yield node.lineno, f"a docstring begins with '{found[0]}'"


def complaints(path: Path) -> list[str]:
    """Everything in a file that is not plain, as path:line: what."""
    if path.suffix == ".py":
        found = [*in_code(path), *in_docstrings(path)]
    else:
        found = [(line + 1, what) for line, what in in_prose(path.read_text(encoding="utf-8"))]
    return [f"{named(path)}:{line}: {what}" for line, what in sorted(found)]


@pytest.mark.parametrize("path", [*CODE, *EXAMPLES, *TEXT], ids=named)
def test_the_words_are_plain(path: Path) -> None:
    assert complaints(path) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('"""Which rows count."""\n', 1),
        ('"""Rows."""\n\n\ndef f():\n    """Whether it is so."""\n', 5),
        ('"""Rows."""\n\nMOST = 3\n"""How many."""\n', 4),
        ('"""Rows."""\nEyes = 1\n', 2),
        ('"""Rows."""\nraise ValueError("It is made anew.")\n', 2),
        ('"""Rows.\n\nThis wants a target.\n"""\n', 3),
        ('"""Rows."""\nx = 1  # nobody reads it\n', 2),
    ],
)
def test_a_word_that_comes_back_is_found(text: str, line: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "module.py").write_text(text, encoding="utf-8")
    (found,) = complaints(tmp_path / "module.py")
    assert found.startswith(f"module.py:{line}: ")


def test_plain_words_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "page.md").write_text("Besides, `beside` is a name here, and inside stays.\n", encoding="utf-8")
    assert complaints(tmp_path / "page.md") == []


def main(places: list[str]) -> None:
    """Print the complaints about the files at or below these paths; about all files without any."""
    wanted = [Path(place).resolve() for place in places]
    for path in [*CODE, *EXAMPLES, *TEXT]:
        if not wanted or any(path.resolve().is_relative_to(place) for place in wanted):
            print("\n".join(complaints(path)), end="\n" if complaints(path) else "")


if __name__ == "__main__":
    main(sys.argv[1:])
