"""The site that is built from docs/: its pictures, its workflow, and the description that a package index shows.

Whether it builds is for `make docs`, and whether it is in the wheel for test_wheel.py.
"""

from __future__ import annotations

import importlib.util
import re
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.project.test_docs import README, TEXTS
from tests.support.paths import ROOT

PICTURE = re.compile(r"[\w./-]*assets/screenshots/[\w-]+\.png")


def load(name: str, file: Path) -> types.ModuleType:
    """Import a script by its path."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def screenshots() -> types.ModuleType:
    return load("screenshots", ROOT / "docs" / "screenshots.py")


def test_the_pictures_that_pages_show_are_those_that_the_script_takes(screenshots: types.ModuleType) -> None:
    shown = {
        (ROOT / name).parent.joinpath(path).resolve() for name, text in TEXTS.items() for path in PICTURE.findall(text)
    }
    assert shown == set(screenshots.files()) == set(screenshots.FOLDER.iterdir())


def test_pictures_are_small_and_of_one_size(screenshots: types.ModuleType) -> None:
    for file in screenshots.files():
        content = file.read_bytes()
        assert content.startswith(b"\x89PNG") and len(content) <= screenshots.LARGEST
        size = (int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big"))
        assert size == (screenshots.WIDTH, screenshots.HEIGHT)


def test_a_picture_with_few_colours_is_smaller_and_as_large(screenshots: types.ModuleType) -> None:
    image = pytest.importorskip("PIL.Image")
    import io

    drawn = image.effect_mandelbrot((200, 100), (-2, -1, 1, 1), 100).convert("RGB")
    before = io.BytesIO()
    drawn.save(before, "PNG")
    after = screenshots.small(before.getvalue())
    assert len(after) < len(before.getvalue()) and image.open(io.BytesIO(after)).size == (200, 100)


@pytest.fixture(scope="module")
def workflow() -> Any:
    return yaml.safe_load((ROOT / ".github" / "workflows" / "docs.yml").read_text(encoding="utf-8"))


def test_the_workflow_has_no_more_rights_than_it_needs(workflow: Any) -> None:
    assert workflow["permissions"] == {}
    rights = {name: job["permissions"] for name, job in workflow["jobs"].items()}
    assert rights == {"build": {"contents": "read"}, "publish": {"contents": "write"}}
    assert workflow["jobs"]["publish"]["if"] == "github.event_name == 'push'", "a pull request writes nothing"
    assert workflow["jobs"]["build"]["steps"][0]["with"] == {"persist-credentials": False}


def test_actions_are_pinned_and_no_text_of_strangers_enters_a_shell(workflow: Any) -> None:
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]
    assert used and all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", each) for each in used)
    assert not [step["run"] for step in steps if "${{" in step.get("run", "")]


@pytest.fixture(scope="module")
def hooks() -> types.ModuleType:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel")
    return load("hatch_build", ROOT / "hatch_build.py")


def test_the_description_for_an_index_has_no_picture_that_it_cannot_show(hooks: types.ModuleType) -> None:
    text = hooks.description(README, "")
    assert PICTURE.search(README) and not PICTURE.search(text)
    kept = [line for line in README.splitlines() if line and not line.startswith("![")]
    assert [line for line in text.splitlines() if line] == kept, "nothing else is left out"


def test_with_the_address_of_a_release_every_link_of_the_description_is_absolute(hooks: types.ModuleType) -> None:
    text = hooks.description(README, "https://example.org/v1/")
    assert "https://example.org/v1/docs/assets/screenshots/" in text and "https://example.org/v1/LICENSE" in text
    assert set(re.findall(r"\]\(([^)\s]+)\)", text)) and not re.findall(r"\]\((?!https?:|#)[^)\s]+\)", text)
