"""Build the stream of candidates of a run with --mix or --replay, and say what it leaves out and what it repeats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import CatalogueBusy, ConfigError, DataError, did_you_mean
from ...log import LOGGER
from ...runtime.distributed import size
from ...runtime.terminal import cell
from ..inputs import Inputs
from ..subsets import records_of
from .config import TrainConfig
from .labels import Labels, answer_digest, answer_of, labels_before, labels_of
from .mixture_options import REST, shares_of

if TYPE_CHECKING:
    from ...lm.tokens.token_table import TokenTable
    from ...training.mixtures.bandit import OnlineShares
    from ...training.mixtures.label_counts import LabelTotal
    from ...training.mixtures.mixture import MixtureOrder
    from ..tokens.tokenization import TokenizedPool

Rows = npt.NDArray[np.int64]

MOST = 1000
"""Largest number of labels whose shares are learned."""


@dataclass(frozen=True)
class Mixing:
    """The samples of a run by label, and the stream that draws them.

    Attributes:
        table: tokens of the samples, then of the replayed ones.
        counted: labels to count candidates by, and (n,) the index of the label of each row; None: none.
        order: the stream of candidates; None without --mix and --replay.
        names: the labels that are mixed, in order; `rest` for those that are not named.
        learned: the shares, if they are learned; None: they are fixed.
        summary: entries for the summary of the run.
        replays: the label of the replayed samples; None: there are none.
    """

    table: TokenTable
    counted: tuple[list[str], Rows] | None
    order: MixtureOrder | None = None
    names: Sequence[str] = ()
    learned: OnlineShares | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)
    replays: str | None = None


def check_mix(config: TrainConfig) -> None:
    """Raise `ConfigError` if --mix or --mix-by does not go with the other options."""
    if config.mix_by == "cluster" and config.clusters is None:
        raise ConfigError("--mix-by cluster needs --clusters NAME: clusters of the pool. Make them: curate cluster.")
    if config.by_label is None:
        return
    if config.learns and config.scope != "global":
        raise ConfigError("--mix-policy odm needs the losses of the whole step: leave --scope at global.")
    if config.learns and not config.candidate_losses:
        raise ConfigError("--mix-policy odm learns from the losses of the candidates: leave out --no-candidate-losses.")
    for option, given in (
        ("--sequence", config.sequence),
        ("--pool-selector", config.pool_selector is not None),
        ("--lengths-of", config.lengths_of is not None),
    ):
        if given:
            raise ConfigError(
                f"{config.by_label} changes which samples the steps have, and {option} says itself which they are: "
                "leave out one of them."
            )
    if config.replay is not None:
        _check_replay(config)


def _check_replay(config: TrainConfig) -> None:
    """Raise `ConfigError` if --replay does not go with the other options."""
    if config.replay == config.pool:
        raise ConfigError(f"--replay {config.replay} is the pool itself: give another pool, or leave it out.")
    if config.scope != "global":
        raise ConfigError(
            f"--replay takes places of the whole step, not of the parts of --scope {config.scope}: leave --scope at "
            "global."
        )
    if config.update == "reuse":
        raise ConfigError(
            "--update reuse has no gradients of the replayed samples, which are not scored: give --update rerun, or "
            "leave out --replay."
        )
    most = math.ceil(_replay_share(config) * config.keep)
    if most >= config.keep or config.candidates - most < size():
        raise ConfigError(
            f"--replay-share {config.replay_share:g} takes {most} of the {config.keep} samples of a step and leaves no "
            "place for others: lower it, or raise --keep."
        )


def _replay_share(config: TrainConfig) -> Fraction:
    return Fraction(str(config.replay_share))


def check_labels(config: TrainConfig, inputs: Inputs) -> dict[str, str]:
    """Check what --mix and --replay need of the pool, before anything is begun.

    A label may still be gone once its samples are tokenized, if all of them are rejected.

    Returns:
        A digest of the answer of the SQL of --mix-by, for the fingerprint; {} without SQL.

    Raises:
        ConfigError, DataError, QueryError: as in `mixing_of`.
    """
    answer = answer_of(config, inputs) if config.mix_sql is not None else None
    if config.replay is not None:
        _require_other(config, inputs)
    if config.by_label is not None:
        _check_subset(config, inputs)
    if config.mixes or config.mix_by != "source":
        labels = labels_before(config, inputs, answer)
        if config.mixes:
            members = members_of(_shares(config, labels), labels, config)
            _require_learnable(config, len(members))
    return {} if answer is None else answer_digest(answer)


def mixing_of(
    config: TrainConfig, inputs: Inputs, pool: TokenizedPool, replayed: TokenizedPool | None = None
) -> Mixing:
    """Return the samples of a run by label, and the stream of candidates that --mix and --replay make of them.

    Args:
        config: config of the run.
        inputs: inputs of the run.
        pool: the tokenized pool.
        replayed: the tokenized pool of --replay.

    Raises:
        ConfigError: the subset has weights or rounds, or the pool has no such column.
        DataError: a label is not there, or the replayed pool is the pool.
        QueryError: the SQL of --mix-by cannot be answered.
    """
    labels = _labels(config, inputs, pool)
    counted = labels.counted()
    if replayed is not None:
        pool, counted = _replayed(config, inputs, pool, replayed, counted)
    if config.by_label is None:
        return Mixing(pool.table, counted)
    _check_subset(config, inputs)
    mixing = _mixture(config, pool.table, labels)
    if replayed is None or counted is None:
        return replace(mixing, counted=counted)
    _tell_no_replay(config, mixing)
    return replace(mixing, counted=counted, replays=counted[0][-1])


def _labels(config: TrainConfig, inputs: Inputs, pool: TokenizedPool) -> Labels:
    """Return the labels of a run's samples; none where they would only be counted and the catalogue cannot be read."""
    try:
        return labels_of(config, inputs, pool.table, pool.expansion.conversations)
    except CatalogueBusy as error:
        if config.by_label is not None or config.mix_by != "source":
            raise
        LOGGER.warning(f"Nothing is counted by source in this run. {error}")
        return Labels.of([None] * len(pool.table))


def _replayed(
    config: TrainConfig,
    inputs: Inputs,
    pool: TokenizedPool,
    replayed: TokenizedPool,
    counted: tuple[list[str], Rows] | None,
) -> tuple[TokenizedPool, tuple[list[str], Rows]]:
    """Return the pool with the replayed samples behind its own, and the labels to count by with one for these.

    Raises:
        DataError: the replayed pool is the pool under another name.
    """
    _require_other(config, inputs)
    own, other = inputs.artifacts["pool"], inputs.artifacts["replay"]
    if both := len({*pool.table.ids} & {*replayed.table.ids}):
        LOGGER.warning(f"{both} samples of '{other.name}' are in '{own.name}', too: they are candidates and replayed.")
    names, codes = counted or ([own.name], np.zeros(len(pool.table), np.int64))
    replays = np.full(len(replayed.table), len(names))
    joined = replace(pool, table=pool.table.followed_by(replayed.table))
    return joined, ([*names, f"(replay of {other.name})"], np.concatenate([codes, replays]))


def _tell_no_replay(config: TrainConfig, mixing: Mixing) -> None:
    """Warn if the run is too short to replay a sample."""
    order = mixing.order
    assert order is not None
    steps = config.max_steps if config.max_steps > 0 else math.ceil(config.num_train_epochs * order.steps)
    per_step = _replay_share(config) * config.keep
    if math.floor(per_step * steps) == 0:
        LOGGER.warning(
            f"The run replays nothing: --replay-share {config.replay_share:g} of {config.keep} samples is one in "
            f"{math.ceil(1 / per_step)} steps, and the run has {steps}. Raise --replay-share, --keep or --max-steps."
        )


def _require_other(config: TrainConfig, inputs: Inputs) -> None:
    """Raise `DataError` if the replayed pool is the pool under another name."""
    if inputs.artifacts["pool"].fingerprint == inputs.artifacts["replay"].fingerprint:
        raise DataError(
            f"The pool '{config.replay}' of --replay is the pool '{config.pool}' under another name: give another one."
        )


def _mixture(config: TrainConfig, table: TokenTable, labels: Labels) -> Mixing:
    """Return the stream of a run with --mix or --replay."""
    from ...training.mixtures.interleave import whole_shares
    from ...training.mixtures.mixture import FixedShares, MixtureOrder
    from ...training.mixtures.replay import Replay

    count, replay = table.first_replayed, None
    if config.replay is not None:
        replay = Replay(np.arange(count, len(table)), _replay_share(config), config.keep)
    if not config.mixes:
        all_rows = [np.arange(count)]
        return Mixing(table, None, MixtureOrder(all_rows, FixedShares([1]), count, config.candidates, replay=replay))
    shares = _shares(config, labels)
    members = members_of(shares, labels, config)
    sizes = table.lengths if config.mix_unit == "tokens" else None
    learned = _learned(config, shares, members, count) if config.learns else None
    given = learned or FixedShares(whole_shares(shares))
    order = MixtureOrder([*members.values()], given, count, config.candidates, sizes, replay)
    left_out = count - sum(map(len, members.values()))
    if left_out:
        named = {*members, *(labels.names if REST in members and REST not in labels.names else ())}
        names = [name for name in labels.names if name not in named]
        which = f" (of {', '.join(map(cell, names[:5]))}{', …' if len(names) > 5 else ''})" if names else ""
        LOGGER.warning(f"The mixture leaves out {left_out} of {count} samples{which}: their labels have no share.")
    if learned is None:
        _tell_repeats(order, shares, members)
    summary = {"left out of the mixture": left_out} if left_out else {}
    return Mixing(table, None, order, [cell(name) for name in members], learned, summary)


def _shares(config: TrainConfig, labels: Labels) -> dict[str, Fraction]:
    """Return the shares of --mix that are above 0, or without --mix those of the labels among the samples."""
    if config.mix is not None:
        return {name: share for name, share in shares_of(config.mix).items() if share}
    sizes = np.bincount(labels.codes[labels.codes >= 0], minlength=len(labels.names)).tolist()
    return {name: Fraction(size, sum(sizes)) for name, size in zip(labels.names, sizes, strict=True)}


def _learned(
    config: TrainConfig, shares: Mapping[str, Fraction], members: Mapping[str, Rows], count: int
) -> OnlineShares:
    """Return the shares that a bandit learns; `DataError` if there is only one label."""
    from ...training.mixtures.bandit import WHOLE, OnlineShares
    from ...training.mixtures.interleave import rounded_shares

    _require_learnable(config, len(members))
    arms = np.full(count, -1)
    for arm, rows in enumerate(members.values()):
        arms[rows] = arm
    start = rounded_shares([float(share) for share in shares.values()], WHOLE)
    return OnlineShares(arms, start, warmup=config.mix_warmup_steps, smoothing=config.mix_smoothing)


def _require_learnable(config: TrainConfig, count: int) -> None:
    """Raise `DataError` if the shares of so many labels cannot be learned, and --mix-policy odm asks for it."""
    if config.learns and not 2 <= count <= MOST:
        raise DataError(
            f"--mix-policy odm learns the shares of 2 to {MOST} labels, and --mix-by {config.mix_by} gives {count}: "
            "give another --mix-by."
        )


def members_of(shares: Mapping[str, Fraction], labels: Labels, config: TrainConfig) -> dict[str, Rows]:
    """Return the rows of each label that has a share, in order of name.

    Raises:
        DataError: there is no such label, or no other label for `rest`.
    """
    members: dict[str, Rows] = {}
    for name in shares:
        if name in labels.names:
            members[name] = labels.rows(name)
        elif name == REST:
            named = [labels.names.index(each) for each in shares_of(config.mix or {}) if each in labels.names]
            members[name] = np.flatnonzero(~np.isin(labels.codes, named))
            if not len(members[name]):
                raise DataError("--mix gives rest a share, but every sample has a label that is named: leave it out.")
        else:
            by = "the query of --mix-by" if config.mix_sql is not None else f"--mix-by {config.mix_by}"
            known = [cell(each) for each in labels.names]
            raise DataError(
                f"No sample to train on has the label '{cell(name)}' of --mix ({by}).{did_you_mean(name, known)}"
            )
    return members


def _tell_repeats(order: MixtureOrder, shares: Mapping[str, Fraction], members: Mapping[str, Rows]) -> None:
    """Say how often an epoch draws the samples of each label."""
    means = {name: 1.0 if order.sizes is None else float(order.sizes[rows].mean()) for name, rows in members.items()}
    drawn = {name: float(share) / means[name] for name, share in shares.items()}
    own = order.steps * float(order.candidates - (order.replay.share * order.replay.keep if order.replay else 0))
    times = {name: own * drawn[name] / sum(drawn.values()) / len(rows) for name, rows in members.items()}
    parts = (f"{cell(name)} {times[name]:.1f} times ({len(rows)} samples)" for name, rows in members.items())
    LOGGER.info(f"An epoch of {round(own)} candidates draws each sample of {', of '.join(parts)}.")


def by_label(found: Mapping[str, LabelTotal], mixing: Mixing) -> dict[str, Any]:
    """Return, for the summary, the share of each label among candidates and kept samples, and its repeats in a mix.

    The shares are those of the run's own pool; replayed samples have a share of the samples trained on.
    """
    own = [each for name, each in found.items() if name != mixing.replays]
    offered, kept = (sum(getattr(each, name) for each in own) for name in ("offered", "kept"))
    lines = {}
    for name, each in found.items():
        if name == mixing.replays:
            lines[name] = (
                f"{each.kept} samples, {each.kept / max(kept + each.kept, 1):.1%} of those trained on, each of "
                f"{each.samples} {each.offered / max(each.samples, 1):.1f} times"
            )
            continue
        if not each.offered:
            continue
        line = f"{each.offered / offered:.1%} of the candidates, {each.kept / max(kept, 1):.1%} of the kept"
        if mixing.order is not None:
            line += f", each of {each.samples} samples {each.offered / each.samples:.1f} times"
        lines[name] = line
    return {**mixing.summary, **({"by label": lines} if lines else {})}


def _check_subset(config: TrainConfig, inputs: Inputs) -> None:
    """Raise `ConfigError` if the subset says itself how often its samples are drawn."""
    subset = inputs.artifacts.get("subset")
    if subset is None:
        return
    records = records_of(subset)
    kinds = []
    if len(set(records["weight"].drop_null().to_pylist())) > 1:
        kinds.append("weights")
    if "epoch" in records.column_names and len(set(records["epoch"].drop_null().to_pylist())) > 1:
        kinds.append("rounds")
    if kinds:
        raise ConfigError(
            f"The subset '{subset.name}' has {kinds[0]}, which say how often its samples are drawn, and "
            f"{config.by_label} draws each equally often: leave out one of them."
        )
