"""The pipelines, configs and saved questions that come with curate, wherever it is installed.

In a clone they lie at its root, where people read and change them; a wheel has a copy of them inside the package
(`pyproject.toml`, force-include). What is in the folder that a command runs in always comes first.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
HOMES = {"pipelines": "pipelines", "configs": "configs", "queries": "store/queries"}
"""What is shipped -> where it is in a clone."""


def folder(kind: str) -> Path | None:
    """The folder of what is shipped of a kind (`HOMES`), or None where it did not come along."""
    inside, clone = PACKAGE / "_shipped" / kind, PACKAGE.parent / HOMES[kind]
    if inside.is_dir():
        return inside
    return clone if (PACKAGE.parent / "pyproject.toml").is_file() and clone.is_dir() else None


def where(path: Path) -> Path:
    """The file itself if it is there; else the shipped one of that path (`configs/uds.yaml`), if there is one."""
    kind, *rest = path.parts or ("",)
    if path.exists() or path.is_absolute() or kind not in HOMES or ".." in rest:
        return path
    found = folder(kind)
    return found.joinpath(*rest) if found is not None and found.joinpath(*rest).is_file() else path


def pipeline(path: Path) -> Path:
    """The pipeline of that path, or of that name alone (`demo`)."""
    bare = len(path.parts) == 1 and not path.suffix and not path.exists()
    return where(Path("pipelines", f"{path}.yaml") if bare else path)


def names(kind: str) -> list[str]:
    """The names of what is shipped of a kind, without their suffixes."""
    found = folder(kind)
    return sorted(file.stem for file in found.glob("*.*")) if found is not None else []
