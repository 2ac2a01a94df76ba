"""Options of models and tokenizers that several stages share. They import nothing slow: `--help` shows them."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from ..config import BY_CONTENT, EXTERNAL, NOT_HASHED, POWER, Options

if TYPE_CHECKING:
    from ..lm.model.config_checks import ModelOptions


def a_day(value: object) -> object:
    """Return a day as YYYY-MM-DD, or None; raise `ValueError` for anything else. YAML reads such a text as a date."""
    text = value.isoformat() if type(value) is datetime.date else value
    if text is None:
        return None
    try:
        if isinstance(text, str) and datetime.date.fromisoformat(text).isoformat() == text:
            return text
    except ValueError:
        pass
    raise ValueError("must be a day of the calendar as YYYY-MM-DD, such as 2026-11-29")


class TokenizerSettings(Options):
    """Options of the model and its tokenizer."""

    BEFORE: ClassVar[Mapping[str, Any]] = {"turns": "whole"}
    model: Annotated[str, EXTERNAL] = Field(
        description="Model: a folder, a Hub id, or the name of a run or model in the store."
    )
    max_length: int = Field(
        512, ge=2, description="Maximum number of tokens of a text; longer texts are cut at the end."
    )
    loss_on: Literal["assistant", "all"] = Field(
        "assistant", description="Tokens that the loss trains on: those of the assistant, or all."
    )
    turns: Literal["auto", "whole", "expand"] = Field(
        "auto",
        description="Conversations with several answers: whole, or expand, each answer as a sample of its own with its "
        "prompt as at inference; auto is whole where both are the same.",
    )
    chat_template: Annotated[str | None, EXTERNAL, BY_CONTENT, POWER] = Field(
        None,
        description="Chat template: chatml, plain, thinking, or a Jinja file. The default is the tokenizer's own.",
    )
    date: Annotated[str | None, NOT_HASHED] = Field(
        None,
        description="Day that a chat template writes as today's, as YYYY-MM-DD. The default is the day of the model or "
        "of other inputs, or the day on which the result is begun.",
    )
    pad_token: str | None = Field(None, description="Padding token, for a tokenizer without one.")
    trust_remote_code: Annotated[bool, POWER] = Field(False, description="Run Python code that comes with the model.")

    @field_validator("date", mode="before")
    @classmethod
    def _day(cls, value: object) -> object:
        return a_day(value)

    def options(self, location: str) -> ModelOptions:
        """Return the options to load the model from `location`."""
        from ..lm.model.config_checks import ModelOptions

        names = {field.name for field in dataclasses.fields(ModelOptions)}
        return ModelOptions(location, **self.model_dump(include=names))


class ModelSettings(TokenizerSettings):
    """Options of the model, of its tokenizer, and of its precision."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Data type of the weights; auto keeps that of the checkpoint, but takes "
        "float32 on a CPU without units for it.",
    )
    attn_implementation: str | None = Field(
        None, description="Attention implementation as in transformers: eager, sdpa, flash_attention_2."
    )
    load_in_4bit: bool = Field(
        False, description="Load the base weights in 4 bits (bitsandbytes); adapters are trained on them."
    )
    strict: Annotated[bool, NOT_HASHED] = Field(
        False, description="Stop with an error at a sample that has no token to train on."
    )
