"""The data type that `--dtype auto` takes: that of the checkpoint, or float32 where the CPU has no units for it.

What is chosen is recorded in the config of the artifact and enters its fingerprint, as if the user had given it. An
artifact that exists or was begun in another data type, on another machine or by an older curate, is continued in that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..config import Config
from ..log import LOGGER
from ..runtime.distributed import rank
from .settings import ModelSettings

if TYPE_CHECKING:
    from .inputs import Inputs


def with_dtype(config: Config, inputs: Inputs, exists: Callable[[Config], bool]) -> Config:
    """Return the config with the data type that it is computed in; `auto` stays for that of the checkpoint.

    Args:
        config: config of a stage.
        inputs: resolved inputs.
        exists: whether an artifact of a config exists or was begun.
    """
    if not isinstance(config, ModelSettings) or config.dtype != "auto" or config.load_in_4bit:
        return config
    from ..lm.precision import UNITS, is_slow_here, stored_precision

    stored = stored_precision(inputs.locations["model"]) if "model" in inputs.locations else None
    if stored not in UNITS:
        return config
    exact = config.model_copy(update={"dtype": "float32"})
    slow = is_slow_here(stored)
    chosen, other = (exact, config) if slow else (config, exact)
    begun = not exists(chosen) and exists(other)
    if begun:
        chosen = other
    if rank() == 0 and (begun or slow):
        LOGGER.info(_words(config, stored, in_float32=chosen is exact, begun=begun))
    return chosen


def _words(config: Config, stored: str, *, in_float32: bool, begun: bool) -> str:
    dtype, given = ("float32", stored) if in_float32 else (stored, "float32")
    if begun:
        return f"'{config.name}' was begun in {dtype}, so it stays so; --dtype {given} makes another."
    return (
        f"This CPU has no units for {stored}, so --dtype auto takes float32, which is faster here; --dtype {stored} "
        "keeps the data type of the model."
    )
