"""Checks of the installed packages: their versions, broken builds, and the extras that are not installed.

The requirements come from the metadata of the installed curate, so that no list of them is kept here.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version

from ..version import DISTRIBUTION, __version__, pip_install
from .finding import Finding, joined, one_line

TRIED = {
    "numpy": "numpy",
    "pyarrow": "pyarrow.compute",
    "duckdb": "duckdb",
    "torch": "torch",
    "transformers": "transformers",
    "faiss-cpu": "faiss",
    "faiss-gpu": "faiss",
}
"""Package with compiled parts -> module that the check imports. Such a package may be installed but broken."""

SERVES = {
    "faiss": "search and clustering of large pools (without it, numpy is used)",
    "gpu": "the same on GPUs",
    "ray": "--engine ray",
    "eval": "the tasks of curate evaluate",
    "quantized": "--load-in-4bit",
    "gguf": "models in GGUF files",
    "encoders": "curate embed --encoder",
    "quality": "languages and personal data in curate grade",
    "trl": "curate.integrations.trl",
    "tensorboard": "--report-to tensorboard",
    "wandb": "--report-to wandb",
    "mlflow": "--report-to mlflow",
    "trackio": "--report-to trackio",
}
"""Extra -> its purpose. An extra that is not listed here is shown without a purpose."""

HIDDEN_EXTRAS = ("dev",)
"""Extras that the report does not show to users."""


def software() -> list[Finding]:
    """Return findings about Python, curate, every package that curate needs, and the extras."""
    found = [
        Finding("python", f"{platform.python_version()} ({sys.executable})", details={"platform": platform.platform()}),
        Finding("curate", __version__),
    ]
    try:
        needed, extras = _declared()
    except PackageNotFoundError:
        return [*found, Finding("packages", "curate is not installed, so its requirements are unknown", "note")]
    except ImportError:
        return [*found, Finding("packaging", "is missing", "wrong", "pip install packaging")]
    found += [_required(name, versions) for name, versions in needed.items()]
    return [*found, *_extras(extras)]


def _declared() -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Return the declared requirements for this platform: package -> range of versions, and the same by extra."""
    from packaging.requirements import Requirement

    needed: dict[str, str] = {}
    extras: dict[str, dict[str, str]] = {}
    for line in requires(DISTRIBUTION) or ():
        requirement = Requirement(line)
        marker = requirement.marker
        extra = _extra_of(str(marker or ""))
        if marker is None or marker.evaluate({"extra": extra}):
            (extras.setdefault(extra, {}) if extra else needed)[requirement.name] = str(requirement.specifier)
    return needed, {name: packages for name, packages in extras.items() if name not in HIDDEN_EXTRAS}


def _extra_of(marker: str) -> str:
    """Return the extra of a marker: `quantized` for `sys_platform == 'linux' and extra == 'quantized'`, else ""."""
    return marker.partition("extra == ")[2].strip("'\") ")


def _required(name: str, versions: str) -> Finding:
    installed = _version(name)
    install = f"pip install '{name}{versions}'"
    if installed is None:
        return Finding(name, "is missing", "wrong", install)
    if not _within(installed, versions):
        return Finding(name, f"{installed}, but curate needs {versions}", "wrong", install)
    return _imported(name, installed, "wrong")


def _imported(name: str, installed: str, verdict: str) -> Finding:
    """Import an installed package if it is in `TRIED`, and report the error if the import fails."""
    if name in TRIED:
        try:
            import_module(TRIED[name])
        except Exception as error:  # a broken build may raise anything
            advice = f"pip install --force-reinstall --no-deps {name}"
            return Finding(
                name,
                f"{installed} cannot be imported: {one_line(error)}",
                "wrong" if verdict == "wrong" else "note",
                advice,
            )
    return Finding(name, installed, details={"version": installed})


def _extras(extras: dict[str, dict[str, str]]) -> Iterator[Finding]:
    """Yield one finding per extra: its installed packages, or the command that installs it."""
    for extra, needed in extras.items():
        if extra == "gpu" and "faiss" in extras and all(_version(name) for name in extras["faiss"]):
            continue  # both packages install the same folder: do not advise to install both
        if extra == "faiss" and "gpu" in extras and all(_version(name) for name in extras["gpu"]):
            continue
        versions = {name: _version(name) for name in needed}
        what, purpose = f"[{extra}]", SERVES.get(extra, "")
        install = pip_install(extra)
        if missing := [name for name, installed in versions.items() if installed is None]:
            message = f"{joined(missing)} missing: {purpose}".rstrip(": ")
            yield Finding(what, message, "fine", install, {"missing": missing})
            continue
        checked = [_imported(name, str(installed), "note") for name, installed in versions.items()]
        broken = next((finding for finding in checked if finding.verdict != "fine"), None)
        outdated = [
            f"{name} {installed} (needs {needed[name]})"
            for name, installed in versions.items()
            if not _within(str(installed), needed[name])
        ]
        if broken:
            yield Finding(what, f"{broken.what} {broken.message}", "note", broken.advice)
        elif outdated:
            yield Finding(what, joined(outdated), "note", install)
        else:
            yield Finding(what, joined(f"{name} {installed}" for name, installed in versions.items()))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _within(installed: str, versions: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(versions).contains(installed, prereleases=True)
