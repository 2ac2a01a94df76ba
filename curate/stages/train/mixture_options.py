"""Options of `curate train` that mix the labels of a pool in given shares, and check them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ...config import Options, Ref, flag_of
from ...errors import ConfigError

REST = "rest"
"""Name in --mix that stands for all labels that are not named, unless a label has that name."""
SHARE = re.compile(r"[-+]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][-+]?\d{1,2})?|[-+]?\d{1,40}/\d{1,40}")
"""Shares as text: numbers of a length that is computed with at once."""
CLOSE = Fraction(1, 10**9)
"""Difference from 1 that the sum of shares may have: what 1/3 as a decimal number loses."""


class MixtureOptions(Options):
    """Options that decide how often the candidates are of each label."""

    mix: dict[str, Any] | None = Field(
        None,
        description="Shares of the candidates by label, such as math=0.5,chat=0.3,rest=0.2; rest stands for all other "
        "labels. They must add up to 1. Labels that are not named are left out.",
    )
    mix_by: str = Field(
        "source",
        description="What the labels are: the pool's source (source), a column of its rows, the cluster of --clusters "
        "(cluster), or SQL that returns the columns sample_id and label.",
    )
    mix_unit: Literal["samples", "tokens"] = Field(
        "samples", description="Whether --mix has shares of the samples or of their tokens."
    )

    mix_policy: Literal["fixed", "odm"] = Field(
        "fixed",
        description="fixed keeps the shares of --mix; odm (Online Data Mixing) learns them during the run: a bandit "
        "draws more of the labels with a high loss.",
    )
    mix_smoothing: float = Field(
        0.9, ge=0, lt=1, description="With odm: weight of the earlier rewards in their moving average."
    )
    mix_warmup_steps: int = Field(
        0,
        ge=0,
        description="With odm: number of steps with the shares of --mix, or those of the pool, before the learned "
        "ones.",
    )

    replay: Ref | None = Field(
        None,
        description="Pool whose samples are mixed into each step, against forgetting; they are trained on without "
        "being selected.",
    )
    replay_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="With --replay: share of the samples trained on that are replayed; 0.1 by default."
    )

    @field_validator("mix")
    @classmethod
    def _sorted(cls, mix: dict[str, Any] | None) -> dict[str, Any] | None:
        """Order the labels by name, so that the order of the flag does not count."""
        if mix is None:
            return None
        shares_of(mix)
        return dict(sorted(mix.items()))

    @model_validator(mode="after")
    def _has_mix(self) -> MixtureOptions:
        fields = MixtureOptions.model_fields
        for name, needed, example in (
            ("mix_unit", self.mix is not None, "--mix: give --mix, such as a=0.5,b=0.5"),
            ("mix_smoothing", self.learns, "--mix-policy odm: give it, or leave the option out"),
            ("mix_warmup_steps", self.learns, "--mix-policy odm: give it, or leave the option out"),
        ):
            if not needed and getattr(self, name) != fields[name].default:
                raise ConfigError(f"--{flag_of(name, fields[name])} is an option of {example}.")
        if self.replay is None and self.replay_share is not None:
            raise ConfigError("--replay-share is an option of --replay: give --replay POOL, or leave it out.")
        if self.replay is not None and self.replay_share is None:
            object.__setattr__(self, "replay_share", 0.1)
        if self.learns and self.mix_unit == "tokens":
            raise ConfigError("--mix-policy odm learns shares of samples: leave out --mix-unit tokens.")
        if self.learns and self.mix is not None and not self.mix_warmup_steps:
            raise ConfigError(
                "--mix-policy odm begins with equal shares, so those of --mix have no effect: give --mix-warmup-steps "
                "for the steps that have them, or leave out --mix."
            )
        return self

    @property
    def learns(self) -> bool:
        """True if the shares are learned during the run."""
        return self.mix_policy == "odm"

    @property
    def mixes(self) -> bool:
        """True if the candidates are drawn by label."""
        return self.mix is not None or self.learns

    @property
    def by_label(self) -> str | None:
        """The option that says how the candidates are drawn by label or replayed, or None."""
        given = {"--mix": self.mix is not None, "--mix-policy odm": self.learns, "--replay": self.replay is not None}
        return next((option for option, is_given in given.items() if is_given), None)

    @property
    def mix_sql(self) -> str | None:
        """The SQL of --mix-by, or None if it names a column."""
        return self.mix_by if re.match(r"\s*(select|with|from)\s", self.mix_by, re.IGNORECASE) else None


def shares_of(mix: Mapping[str, Any]) -> dict[str, Fraction]:
    """Return the shares by label as fractions that add up to 1.

    Args:
        mix: label -> a number from 0 to 1, also as text, such as 1/3.

    Raises:
        ConfigError: a share is no such number, all are 0, or they do not add up to 1.
    """
    if not mix:
        raise ConfigError("--mix has no label: give shares that add up to 1, such as math=0.5,chat=0.5.")
    shares = {label: _share(label, value) for label, value in mix.items()}
    total = sum(shares.values(), Fraction(0))
    if abs(total - 1) > CLOSE:
        given = " + ".join(str(value) for value in mix.values())
        raise ConfigError(
            f"The shares of --mix must add up to 1, and {given} is {float(total):.6g}: change one of them."
        )
    return {label: share / total for label, share in shares.items()}


def _share(label: str, value: Any) -> Fraction:
    text = "" if isinstance(value, bool) else str(value).strip()
    try:
        share = Fraction(text) if SHARE.fullmatch(text) else None
    except ZeroDivisionError:
        share = None
    if share is None:
        raise ConfigError(
            f"The share of '{label}' in --mix is no number: {value!s:.40}. Give one from 0 to 1, such as 0.25 or 1/4."
        )
    if not 0 <= share <= 1:
        raise ConfigError(f"The share of '{label}' in --mix is {value}, and a share is from 0 to 1.")
    return share
