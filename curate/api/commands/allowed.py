"""Options that allow what gives power, for methods that run what a file of another person describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from ...config import Options, build
from ...stages.consent import Consent


class AllowedOptions(Options):
    """Permissions of a call. curate takes them from the call alone, never from a file."""

    trust_remote_code: bool | None = Field(None, description="Allow it to run code that comes with the model.")
    task_folder: tuple[str, ...] | str | None = Field(
        None, description="Allow it to run the tasks in this folder, which may contain code."
    )
    allow_files: bool | None = Field(None, description="Allow its SQL to read files outside the store.")
    chat_template: tuple[str, ...] | str | None = Field(
        None, description="Allow it to read this file as chat template."
    )
    to: tuple[str, ...] | str | None = Field(None, description="Allow it to write to this destination.")
    overwrite: bool | None = Field(
        None, description="Allow it to replace the destination even if it holds other files."
    )
    push_to_hub: tuple[str, ...] | str | None = Field(
        None, description="Allow it to upload the dataset to this Hub repository."
    )
    private: bool | None = Field(None, description="False allows it to make the Hub repository public.")
    report_to: tuple[str, ...] | str | None = Field(None, description="Allow it to send its log to this service.")


def consent_of(given: Mapping[str, Any]) -> Consent:
    """Return the permissions of a call.

    Raises:
        ConfigError: a permission does not exist.
    """
    return Consent(build(AllowedOptions, given).model_dump(exclude_none=True))
