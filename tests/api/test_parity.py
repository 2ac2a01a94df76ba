"""Python is the command line: every command has a method, and every option an argument, or a reason why not."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import pytest

from curate import Store
from curate.api.methods import ONLY_FLAGS
from curate.cli.main import COMMANDS, plain_command, stage_command
from curate.stages import STAGES
from curate.stages.consent import POWERS
from curate.store.store import Store as PlainStore

EVERY = {
    "help": "help(store.train)",
    "store": "the store whose method is called",
    "file": "make(store, stage, config=FILE)",
    "config_file": "make(store, stage, config=FILE)",
    "sets": "keywords",
}
"""Option of commands of stages -> its way in Python."""
OTHERS: Mapping[str, Mapping[str, str]] = {
    "query": {
        "output_format": "df() and arrow() of the answer",
        "raw": "df() and arrow() of the answer",
        "catalogue": "questions() and tables()",
    },
    "run": {
        "slurm": "the command line submits jobs, whose scripts call it again",
        "dry_run": "the command line submits jobs",
        "part": "the command line is what the jobs call",
    },
    "status": {"run": "on_step of train() and resume()", "follow": "on_step of train() and resume()"},
    "doctor": {"as_json": "the property data of the findings"},
    "compare": {"format": "text, HTML, df() and arrow() of the result"},
    "advise": {"format": "text, HTML, df() and arrow() of the result"},
}
"""Command -> option -> its way in Python, where no argument has its name."""
NO_METHOD: Mapping[str, str] = {
    "watch": "it serves a page to a browser until a run ends; report() returns the same page",
    "docs": "it opens the manual in a browser; help() describes the methods",
}
"""Command without a method -> the reason."""
MORE = {"result", "questions", "tables"}
"""Methods of no command."""

NAMES = [*STAGES, *COMMANDS]


def options_of(name: str) -> set[str]:
    """Return the names of the options of a command."""
    command = stage_command(name) if name in STAGES else plain_command(name)
    return {str(parameter.name) for parameter in command.params}


def without_argument(name: str) -> set[str]:
    """Return the options of a command that its method does not have and that have no other way."""
    arguments = inspect.signature(getattr(Store, name.replace("-", "_"))).parameters
    stages_own = EVERY if name in (*STAGES, "inspect", "doctor") else {"help": "", "store": ""}
    return options_of(name) - {*arguments, *stages_own, *OTHERS.get(name, {})}


@pytest.mark.parametrize("name", NAMES)
def test_a_command_has_a_method_and_its_options_have_arguments(name: str) -> None:
    if name in NO_METHOD:
        assert not hasattr(Store, name.replace("-", "_"))
        return
    assert hasattr(Store, name.replace("-", "_")), (
        f"give curate.api.store.Store a method, or NO_METHOD a reason: {name}"
    )
    assert without_argument(name) == set(), "give the method an argument, or OTHERS its way in Python"


@pytest.mark.parametrize("name", NAMES)
def test_a_method_has_no_argument_that_its_command_does_not_have(name: str) -> None:
    if name in NO_METHOD:
        return
    arguments = set(inspect.signature(getattr(Store, name.replace("-", "_"))).parameters) - {"self"}
    more = {"train": {"on_step"}, "resume": {"on_step"}, "query": {"limits"}}.get(name, set())
    assert arguments - options_of(name) == more


def test_reasons_are_of_options_that_there_are() -> None:
    for name, reasons in OTHERS.items():
        assert set(reasons) <= options_of(name)
    assert all(set(fields) <= set(OTHERS[name]) for name, fields in ONLY_FLAGS.items())
    assert set(NO_METHOD) <= set(NAMES)


def test_an_option_that_is_missing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "gc", lambda self, *, yes=False: None)
    assert without_argument("gc") == {"drafts"}


def test_every_method_is_a_command_or_is_listed() -> None:
    own = {name for name in dir(Store) if not name.startswith("_") and callable(getattr(Store, name))}
    own -= set(dir(PlainStore)) - {"query"}
    assert own == {name.replace("-", "_") for name in NAMES if name not in NO_METHOD} | MORE


@pytest.mark.parametrize("method", ["resume", "run"])
def test_everything_that_gives_power_can_be_allowed(method: str) -> None:
    assert set(POWERS) <= set(inspect.signature(getattr(Store, method)).parameters)
