"""Which packages are here, whether curate can work with their versions, and what the missing extras would add."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version

from ..version import DISTRIBUTION, __version__, pip_install
from .finding import Finding, joined, said_by

TRIED = {
    "numpy": "numpy",
    "pyarrow": "pyarrow.compute",
    "duckdb": "duckdb",
    "torch": "torch",
    "transformers": "transformers",
    "faiss-cpu": "faiss",
    "faiss-gpu": "faiss",
}
"""Packages with compiled parts, which may be here and broken, and what is imported to find out."""

SERVES = {
    "faiss": "searching and clustering large pools; numpy does it otherwise",
    "gpu": "the same on GPUs",
    "ray": "--engine ray",
    "eval": "the tasks of curate evaluate",
    "quantized": "--load-in-4bit",
    "trl": "curate.integrations.trl",
    "tensorboard": "--report-to tensorboard",
    "wandb": "--report-to wandb",
}
"""Extra -> what it is for; an extra that is not named here is shown without."""

UNASKED = ("dev",)
"""Extras that users are not told of."""


def software() -> list[Finding]:
    """Python, curate, every package that it needs, then the extras."""
    found = [
        Finding("python", f"{platform.python_version()} ({sys.executable})", details={"platform": platform.platform()}),
        Finding("curate", __version__),
    ]
    try:
        needed, extras = _declared()
    except PackageNotFoundError:
        return [*found, Finding("packages", "curate is not installed, so its needs are not known", "note")]
    except ImportError:
        return [*found, Finding("packaging", "is missing", "wrong", "pip install packaging")]
    found += [finding for name, wanted in needed.items() if (finding := _required(name, wanted))]
    return [*found, *_extras(extras)]


def _declared() -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """What curate says that it needs here, and by extra: package -> range of versions."""
    from packaging.requirements import Requirement

    needed: dict[str, str] = {}
    extras: dict[str, dict[str, str]] = {}
    for line in requires(DISTRIBUTION) or ():
        requirement = Requirement(line)
        marker = requirement.marker
        extra = _extra_of(str(marker or ""))
        if marker is None or marker.evaluate({"extra": extra}):
            (extras.setdefault(extra, {}) if extra else needed)[requirement.name] = str(requirement.specifier)
    return needed, {name: those for name, those in extras.items() if name not in UNASKED}


def _extra_of(marker: str) -> str:
    """`quantized` of `sys_platform == 'linux' and extra == 'quantized'`; "" of a marker without one."""
    return marker.partition("extra == ")[2].strip("'\") ")


def _required(name: str, wanted: str) -> Finding:
    here = _version(name)
    install = f"pip install '{name}{wanted}'"
    if here is None:
        return Finding(name, "is missing", "wrong", install)
    if not _within(here, wanted):
        return Finding(name, f"{here}, and curate needs {wanted}", "wrong", install)
    return _tried(name, here, "wrong")


def _tried(name: str, here: str, verdict: str) -> Finding:
    """A package that is here, imported where that may fail; whatever it raises then is what is said."""
    if name in TRIED:
        try:
            import_module(TRIED[name])
        except Exception as error:  # a broken build may raise anything
            advice = f"pip install --force-reinstall --no-deps {name}"
            return Finding(
                name,
                f"{here} cannot be imported: {said_by(error)}",
                "wrong" if verdict == "wrong" else "note",
                advice,
            )
    return Finding(name, here, details={"version": here})


def _extras(extras: dict[str, dict[str, str]]) -> Iterator[Finding]:
    """One line an extra: what is here of it, or how to have it."""
    for extra, wanted in extras.items():
        if extra == "gpu" and "faiss" in extras and all(_version(name) for name in extras["faiss"]):
            continue  # both own the same folder: who has the one must not be told to install the other
        if extra == "faiss" and "gpu" in extras and all(_version(name) for name in extras["gpu"]):
            continue
        there = {name: _version(name) for name in wanted}
        what, purpose = f"[{extra}]", SERVES.get(extra, "")
        if missing := [name for name, here in there.items() if here is None]:
            way = pip_install(extra)
            yield Finding(what, f"{joined(missing)} missing: {purpose}".rstrip(": "), "fine", way, {"missing": missing})
            continue
        tried = [_tried(name, str(here), "note") for name, here in there.items()]
        broken = next((finding for finding in tried if finding.verdict != "fine"), None)
        old = [
            f"{name} {here} (wants {wanted[name]})"
            for name, here in there.items()
            if not _within(str(here), wanted[name])
        ]
        if broken:
            yield Finding(what, f"{broken.what} {broken.said}", "note", broken.advice)
        elif old:
            yield Finding(what, joined(old), "note", pip_install(extra))
        else:
            yield Finding(what, joined(f"{name} {here}" for name, here in there.items()))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _within(here: str, wanted: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(here, prereleases=True)
