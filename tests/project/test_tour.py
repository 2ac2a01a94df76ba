"""The notebook runs as it is, shows what it says, and holds no outputs in git."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.paths import ROOT

TOUR = ROOT / "examples" / "tour.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook, executed in an empty folder."""
    folder = tmp_path_factory.mktemp("tour")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        notebook = nbformat.read(TOUR, as_version=4)
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook, folder


def page_of(cell: Any) -> str:
    """Return the HTML that a cell shows."""
    pages = [output["data"]["text/html"] for output in cell["outputs"] if "text/html" in output.get("data", {})]
    return "".join(pages)


def test_the_notebook_in_git_has_no_outputs_and_is_valid() -> None:
    notebook = json.loads(TOUR.read_text(encoding="utf-8"))
    nbformat.validate(notebook)
    for cell in notebook["cells"]:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None and cell["metadata"] == {}


def test_every_result_is_shown_and_nothing_is_printed(executed: tuple[Any, Path]) -> None:
    notebook, _ = executed
    shown = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    last_lines = [cell["source"].strip().splitlines()[-1] for cell in shown]
    for cell, line in zip(shown, last_lines, strict=True):
        is_shown = not re.match(r"\w+ = ", line)
        assert bool(page_of(cell)) == is_shown, cell["source"]
        assert not [output for output in cell["outputs"] if output.get("name") == "stdout"]
        assert not [output for output in cell["outputs"] if output["output_type"] == "error"]
    with_picture = sum("<svg" in page_of(cell) for cell in shown)
    assert with_picture >= 9 and not any("No picture" in page_of(cell) for cell in shown)


def test_what_the_notebook_makes_is_there(executed: tuple[Any, Path]) -> None:
    _, folder = executed
    from curate import Store

    store = Store(folder / "tour")
    assert set(store.status().df()["state"]) == {"made"}
    rows = store.query("SELECT count(*) AS n, count(DISTINCT step) AS steps FROM ledger WHERE run = 'max-loss'")
    assert rows.to_pylist() == [{"n": 192, "steps": 12}]
    assert (folder / "report.html").stat().st_size > 10_000 and any((folder / "chosen").rglob("*.jsonl"))
