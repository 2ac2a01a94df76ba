"""What SQL that is handed to a stage may take, as options of the stage: `--timeout`, `--memory`, `--allow-files`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, field_validator

from ..config import NOT_HASHED, POWER
from ..store.catalog.limits import TIMEOUT, Limits, bytes_of


class QueryOptions(BaseModel):
    """Limits of a query. They do not count in the fingerprint: its answer does."""

    timeout: Annotated[float, NOT_HASHED] = Field(TIMEOUT, gt=0, description="Seconds that the SQL may take.")
    memory: Annotated[str, NOT_HASHED] = Field(
        "2GB", description="Memory that the SQL may use before it spills to disk."
    )
    allow_files: Annotated[bool, NOT_HASHED, POWER] = Field(
        False, description="The SQL may read files outside the store."
    )

    @field_validator("memory")
    @classmethod
    def _is_a_size(cls, memory: str) -> str:
        bytes_of(memory)
        return memory

    @property
    def limits(self) -> Limits:
        """The same as the store takes it."""
        return Limits(self.timeout, bytes_of(self.memory), self.allow_files)
