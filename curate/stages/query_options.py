"""Options that limit a query which the user passes to a stage: `--timeout`, `--memory`, `--allow-files`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from ..config import NOT_HASHED, POWER, Options
from ..store.catalog.limits import TIMEOUT, Limits, bytes_of


class QueryOptions(Options):
    """Limits of a query. They do not enter the fingerprint; the query's answer does."""

    timeout: Annotated[float, NOT_HASHED] = Field(
        TIMEOUT, gt=0, description="Maximum number of seconds that the query may take."
    )
    memory: Annotated[str, NOT_HASHED] = Field(
        "2GB", description="Memory that the query may use before it spills to disk."
    )
    allow_files: Annotated[bool, NOT_HASHED, POWER] = Field(
        False, description="Allow the query to read files outside the store."
    )

    @field_validator("memory")
    @classmethod
    def _is_a_size(cls, memory: str) -> str:
        bytes_of(memory)
        return memory

    @property
    def limits(self) -> Limits:
        """The same limits, as the store takes them."""
        return Limits(self.timeout, bytes_of(self.memory), self.allow_files)
