"""Advice from Python: the result of a race as an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...store import Artifact, Store
from ...store.artifacts.files import read_json
from .. import build_config, plain, run_stage
from .picture import advice_html
from .show import show_result
from .stage import RESULT


@dataclass(frozen=True)
class Advice:
    """Advice about data and selectors, with the race that it rests on.

    Attributes:
        artifact: the artifact of the advice.
        result: content of its `advice.json`.
    """

    artifact: Artifact
    result: Mapping[str, Any]

    @classmethod
    def of(cls, artifact: Artifact) -> Advice:
        """Read the advice of a finished artifact."""
        return cls(artifact, read_json(artifact.files / RESULT))

    @property
    def advised(self) -> str:
        """The method to use; `random` if nothing is shown to be better."""
        return str(self.result["advised"])

    @property
    def sentence(self) -> str:
        """The verdict as a sentence."""
        return str(self.result["sentence"])

    @property
    def runs(self) -> Sequence[Mapping[str, Any]]:
        """The runs of the race and of the verdict, as rows of the table `advice_runs`."""
        return list(self.result["runs"])

    @property
    def verdicts(self) -> Sequence[Mapping[str, Any]]:
        """The winner of the race against each control, as rows of the table `advice_verdicts`."""
        return list(self.result["verdicts"])

    @property
    def notes(self) -> Sequence[Mapping[str, Any]]:
        """Observations in the data, as rows of the table `advice_notes`."""
        return list(self.result["notes"])

    @property
    def full_run(self) -> Mapping[str, Any]:
        """Options of `curate train` for the full run: `make(store, "train", **advice.full_run, name="tuned")`."""
        return dict(self.result["full"])

    def __str__(self) -> str:
        return show_result(self.result, "table")

    def _repr_html_(self) -> str:
        """Return the verdict, the race as a picture, and the full run as HTML, for notebooks."""
        return advice_html(self.result)


def advise(store: Store, **values: Any) -> Advice:
    """Advise which data and which selector to use: `advise(store, pool="pool", model="M", time="1h", name="advice")`.

    Args:
        store: the store of the pools.
        values: options of `curate advise`, by field name.

    Raises:
        CurateError: an option, a pool or the model cannot be used; the message says what would do.
    """
    return Advice.of(run_stage(plain(store), "advise", build_config("advise", values)))
