"""Options of `curate advise`: the pools, the model, the budget, and the methods to race."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from ...config import EXTERNAL, NAME, NOT_HASHED, Config, Ref
from ...errors import ConfigError
from ...runtime.distributed import size
from ..compare.config import SET_FOR_TRAIN, check_keys, without_templates
from ..settings import a_day
from ..train.config import TrainConfig
from ..train.mixture_options import MixtureOptions

DURATION = re.compile(r"(\d+(?:\.\d*)?)\s*([smhd]?)")
SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
LONGEST_NAME = 70
"""Most characters of the name: the names of all runs begin with it."""

Axis = Literal["seconds", "tokens", "flops"]
AXES: dict[str, Axis] = {"time": "seconds", "tokens": "tokens", "flops": "flops"}
"""Option with the budget -> what it counts."""
SET_HERE = (*SET_FOR_TRAIN, "max_steps", "num_train_epochs", "sequence", "lengths_of", "reference", "clusters")
"""Options of `curate train` that advise sets itself."""


class AdviseConfig(Config):
    """Options of `curate advise`."""

    pool: Ref = Field(description="Pool to train on.")
    model: Annotated[str, EXTERNAL] = Field(
        description="Model that every run starts from: a folder, a Hub id, or a name in the store."
    )
    target: Ref | None = Field(
        None, description="A pool of examples of what the model should learn, for methods that need one."
    )
    eval_pool: Ref | None = Field(
        None,
        description="A held-out pool to judge by. By default rows of the target are held out, or else of the pool.",
    )
    time: str | None = Field(None, description="Budget in time: 90s, 30m, 1h, 2d.")
    tokens: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Budget in tokens trained on, instead of --time."
    )
    flops: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Budget in floating-point operations, instead of --time."
    )
    share: float = Field(0.1, gt=0, lt=1, description="Share of the budget that advising may spend.")
    methods: tuple[str, ...] = Field(
        (),
        description="Methods to race: names of selectors and pool selectors, uds_per_token, low_loss, dedup, "
        "target_only. By default cheap and dear ones, as many as the budget allows.",
    )
    steps: int | None = Field(
        None, ge=2, description="Steps of a short run of random; by default as many as the budget allows."
    )
    subset_budget: float = Field(0.25, gt=0, le=1, description="Share of the pool that a pool selector selects.")
    train: dict[str, Any] = Field({}, description="Options of curate train that all runs share.")
    seed: int = Field(0, ge=0, description="Seed of the held-out rows, and first seed of the runs.")
    date: Annotated[str | None, NOT_HASHED] = Field(
        None,
        description="Day that a chat template writes when it asks for today's, as YYYY-MM-DD, in all runs. The default "
        "is the day of the model, or the day on which the advice is begun.",
    )
    dry_run: Annotated[bool, NOT_HASHED] = Field(False, description="Print the plan, and make nothing.")
    apply: Annotated[str | None, NOT_HASHED] = Field(
        None, pattern=NAME.pattern, description="Then make the run that is advised, under this name."
    )
    format: Annotated[Literal["table", "json", "markdown"], NOT_HASHED] = Field(
        "table", description="Format of the result on stdout."
    )

    @field_validator("date", mode="before")
    @classmethod
    def _day(cls, value: object) -> object:
        return a_day(value)

    @field_validator("time", mode="before")
    @classmethod
    def _duration(cls, value: object) -> object:
        text = str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
        if isinstance(text, str) and not ((found := DURATION.fullmatch(text.strip())) and float(found[1])):
            raise ValueError("must be a time above 0, such as 90s, 30m, 1h or 2d")
        return text

    @model_validator(mode="after")
    def _check(self) -> Self:
        if size() > 1:
            raise ConfigError("curate advise starts the runs itself: run it without torchrun.")
        given = [name for name in AXES if getattr(self, name) is not None]
        if len(given) != 1:
            some = " and ".join(f"--{name}" for name in given)
            what = f"{some} are several budgets: give one of them." if given else "There is no budget."
            raise ConfigError(f"{what} A budget is --time 1h, --tokens 2e6 or --flops 1e18.")
        if len(self.name) > LONGEST_NAME:
            raise ConfigError(
                f"The name has {len(self.name)} characters, and the names of all runs begin with it: give at most "
                f"{LONGEST_NAME}."
            )
        if repeated := next((each for each in self.methods if self.methods.count(each) > 1), None):
            raise ConfigError(f"--methods names '{repeated}' twice: remove one.")
        if self.eval_pool is not None and self.eval_pool in (self.pool, self.target):
            kind = "pool" if self.eval_pool == self.pool else "target"
            raise ConfigError(
                f"--eval-pool {self.eval_pool} is the {kind} itself: rows that are trained on cannot judge. Leave it "
                f"out, and rows of the {kind} are held out, or name a pool of other rows."
            )
        if self.target == self.pool:
            raise ConfigError(
                f"--target {self.target} is the pool itself, so nothing could be like it: name a pool of examples of "
                "what the model should learn, or leave it out."
            )
        check_keys(self.train, TrainConfig, SET_HERE, "train", "curate advise")
        if mixed := next((name for name in MixtureOptions.model_fields if name in self.train), None):
            raise ConfigError(
                f"curate advise compares with random samples as long, which have no mixture: remove '{mixed}' from "
                "train."
            )
        return self

    @property
    def axis(self) -> Axis:
        """Quantity that the budget counts."""
        return next(axis for option, axis in AXES.items() if getattr(self, option) is not None)

    @property
    def budget(self) -> float:
        """The budget, in seconds, tokens or operations."""
        if self.time is None:
            return float(self.tokens or self.flops or 0.0)
        found = DURATION.fullmatch(self.time.strip())
        assert found is not None
        return float(found[1]) * SECONDS[found[2]]

    def identity(self) -> dict[str, Any]:
        """Return the part of the config that decides the result; chat templates count by their content."""
        values: dict[str, Any] = without_templates(super().identity())
        return values
