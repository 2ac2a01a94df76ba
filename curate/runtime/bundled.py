"""Find the pipelines, configs, saved queries and documentation that come with curate, wherever it is installed.

In a clone they are in folders at its root, where people read and change them. A wheel contains a copy inside the
package (`pyproject.toml`, force-include). A file in the working directory of a command always comes first.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
FOLDERS = {"pipelines": "pipelines", "configs": "configs", "queries": "store/queries"}
"""Kind of bundled files -> their folder in a clone."""


def folder(kind: str) -> Path | None:
    """Return the folder with the bundled files of a kind (see `FOLDERS`), or None if they are not installed."""
    inside, clone = PACKAGE / "_shipped" / kind, PACKAGE.parent / FOLDERS[kind]
    if inside.is_dir():
        return inside
    return clone if (PACKAGE.parent / "pyproject.toml").is_file() and clone.is_dir() else None


def find(path: Path) -> Path:
    """Return the path if the file exists; else that of the bundled file (`configs/uds.yaml`), if there is one."""
    kind, *rest = path.parts or ("",)
    if path.exists() or path.is_absolute() or kind not in FOLDERS or ".." in rest:
        return path
    found = folder(kind)
    return found.joinpath(*rest) if found is not None and found.joinpath(*rest).is_file() else path


def pipeline(path: Path) -> Path:
    """Return the path of a pipeline that is given as a path, or as a name alone (`demo`)."""
    is_name = len(path.parts) == 1 and not path.suffix and not path.exists()
    return find(Path("pipelines", f"{path}.yaml") if is_name else path)


def site() -> Path | None:
    """Return the folder of the built documentation, or None. `make docs` builds it, and `make wheel` packs it."""
    inside, clone = PACKAGE / "_shipped" / "docs", PACKAGE.parent / "site"
    for found in (inside, clone) if in_clone() else (inside,):
        if (found / "index.html").is_file():
            return found
    return None


def in_clone() -> bool:
    """Return whether curate runs from a clone."""
    return (PACKAGE.parent / "pyproject.toml").is_file() and (PACKAGE.parent / "mkdocs.yml").is_file()


def names(kind: str) -> list[str]:
    """Return the names of the bundled files of a kind, without their suffixes."""
    found = folder(kind)
    return sorted(file.stem for file in found.glob("*.*")) if found is not None else []
