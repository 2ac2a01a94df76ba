"""Options of `curate embed`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ...config import EXTERNAL, NOT_HASHED, NamedConfig, Ref
from ...errors import ConfigError
from ...executors.options import ExecutionOptions
from ..settings import ModelSettings

OF_MODELS = (
    *("loss_on", "turns", "chat_template", "date", "pad_token", "trust_remote_code", "dtype", "attn_implementation"),
    *("load_in_4bit", "before", "d1", "d2", "seed", "bf16", "score_batch_tokens"),
)
"""Options that a sentence encoder does not have."""


class EmbedConfig(ExecutionOptions, ModelSettings, NamedConfig):
    """Configuration of `curate embed`."""

    BEFORE: ClassVar[Mapping[str, Any]] = {**ModelSettings.BEFORE, "on": "both"}
    model: Annotated[str | None, EXTERNAL] = Field(  # type: ignore[assignment]  # None: the encoder measures
        None, description="Language model: a folder, a Hub id, or the name of a run or model in the store."
    )
    encoder: Annotated[str | None, EXTERNAL] = Field(
        None,
        description="Sentence encoder in place of a language model: a folder of sentence-transformers or a static "
        "model2vec one, or the Hub id of one in the cache. It gives the column embedding.",
    )
    on: Literal["prompt", "answer", "both"] = Field(
        "both", description="Text for --encoder: the last answer, the prompt before it, or both together."
    )
    pool: Ref = Field(description="Name of the pool to measure.")
    signals: tuple[
        Literal[
            "loss", "entropy", "utility", "sketch", "embedding", "surprise", "quantiles", "ifd", "weighted_embedding"
        ],
        ...,
    ] = Field(
        ("loss", "entropy", "utility", "sketch", "embedding"),
        min_length=1,
        description="Signals to measure: loss, entropy, utility, sketch, embedding; also surprise, the loss above what "
        "the model expects; quantiles of the tokens' losses; ifd, how much the instruction helps (a second pass); "
        "weighted_embedding, an embedding in which later tokens count more.",
    )
    before: Ref | None = Field(
        None,
        description="Features of an earlier checkpoint, or of another model with the same tokenizer: its loss of each "
        "sample is the column loss_before, and learnability is that less the loss of this model.",
    )
    d1: int = Field(8, ge=1, description="Number of rows of a sketch: the token positions are projected to it.")
    d2: int = Field(128, ge=1, description="Number of columns of a sketch: the vocabulary is projected to it.")
    seed: int = Field(0, description="Seed of the sketch's random projection.")
    bf16: bool = Field(False, description="Compute in bfloat16.")
    score_batch_tokens: Annotated[int | None, NOT_HASHED] = Field(
        None,
        ge=1,
        description="Maximum number of padded tokens in a forward pass; the default fits the device's memory.",
    )
    score_batch_size: Annotated[int | None, NOT_HASHED] = Field(
        None, ge=1, description="Maximum number of texts in a forward pass."
    )
    fresh: Annotated[bool, NOT_HASHED] = Field(
        False,
        description="Measure every sample, also those that features of another pool have already with the same model "
        "and options. Features that exist are found as always.",
    )
    dry_run: Annotated[bool, NOT_HASHED] = Field(
        False, description="Print how many samples would be measured or taken from earlier features, and make nothing."
    )
    shard_rows: int = Field(
        2000, ge=1, description="Number of pool rows per shard; a stopped pass continues with the next missing shard."
    )

    @model_validator(mode="before")
    @classmethod
    def _signals_of_encoder(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("encoder") is not None and values.get("signals") is None:
            return {**values, "signals": ("embedding",)}
        return values

    @model_validator(mode="after")
    def _check(self) -> EmbedConfig:
        fields = type(self).model_fields
        if self.encoder is not None:
            if self.model is not None:
                raise ConfigError(
                    "Give --model or --encoder, not both: each is a pass of its own with its own features."
                )
            if others := [signal for signal in self.signals if signal != "embedding"]:
                raise ConfigError(
                    f"A sentence encoder gives the signal embedding only, not {', '.join(others)}, for which a "
                    "language model is needed. Leave out --signals, or give --model."
                )
            if given := [name for name in OF_MODELS if getattr(self, name) != fields[name].default]:
                raise ConfigError(f"--{given[0].replace('_', '-')} is of language models: leave it out with --encoder.")
            return self
        if self.model is None:
            raise ConfigError("Give --model, a language model, or --encoder, a sentence encoder.")
        if self.on != fields["on"].default:
            raise ConfigError("--on chooses the text of --encoder: a language model reads whole samples.")
        if "ifd" in self.signals and self.loss_on == "all":
            raise ConfigError(
                "The signal ifd compares an answer with and without its prompt, and --loss-on all trains on the "
                "prompt, too: leave out one of them."
            )
        if self.before is not None and not {"loss", "ifd"} & {*self.signals}:
            raise ConfigError("--before compares losses: add loss to --signals.")
        return self

    def obvious_name(self) -> str:
        """Return the pool's name with `-features`."""
        return f"{self.pool}-features"
