"""The prescreen of a run: built from its options, checked before a model is loaded, and what it says at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, DataError
from ..inputs import Inputs
from .config import TrainConfig
from .joined_features import joined_column

if TYPE_CHECKING:
    from ...lm.tokens.token_table import TokenTable
    from ...prescreens import Prescreen, Screening

LAST = """
SELECT sample_id, arg_max(value, step) AS value
FROM (SELECT sample_id, step, coalesce(parts['alignment'], parts['utility'], score) AS value
      FROM ledger WHERE run = $run)
WHERE isfinite(value) GROUP BY sample_id
"""
"""The value that prescreens predict, of each sample when a run scored it last: the parts are those of `PREDICTED`."""


def check_prescreen(config: TrainConfig) -> None:
    """Raise `ConfigError` if the options of the prescreen do not fit those of the run."""
    from ...prescreens import screened_share
    from ...selectors import requirements_of

    if config.prescreen is None:
        return
    required = requirements_of(config.selector, config.selector_args)
    if not required.signals and required.gradients is None:
        raise ConfigError(
            f"Selector {config.selector} makes no scoring pass, so there is nothing to save: leave out --prescreen."
        )
    if config.scope != "global":
        raise ConfigError(
            f"--prescreen rules out candidates of the whole step, not of the parts of --scope {config.scope}: leave "
            "--scope at global, or leave out --prescreen."
        )
    passing = screened_share(config.prescreen, config.candidates)
    if passing < config.keep:
        raise ConfigError(
            f"--prescreen {config.prescreen:g} lets {passing} of {config.candidates} candidates pass, fewer than "
            f"--keep {config.keep}: give at least {config.keep / config.candidates:g}."
        )
    if config.prescreen_column is not None and config.features is None:
        raise ConfigError(
            "--prescreen-by feature:COLUMN needs --features NAME: features of the pool with that column. Make them: "
            "curate embed."
        )


def screening_of(config: TrainConfig, inputs: Inputs, table: TokenTable) -> Callable[[], Screening] | None:
    """Return a function that makes the screening of a run; None without --prescreen.

    Raises:
        ConfigError: the features do not have the column, or the earlier run has another selector.
        DataError: a sample has no value, or the earlier run has scored no sample of the pool.
    """
    from ...prescreens import Auto, LastScore, Line, Screening
    from ...prescreens.line import column_of

    if config.prescreen is None:
        return None
    share, column, count = config.prescreen, config.prescreen_column, len(table)
    values = None if column is None else joined_column(column, config, inputs, table)
    last = _last_values(config, inputs, table)

    def make() -> Screening:
        prescreen: Prescreen
        if values is not None:
            prescreen = Line(column_of(values), width=1)
        elif config.prescreen_by == "length":
            prescreen = Line()
        else:
            prescreen = LastScore(count) if config.prescreen_by == "last_score" else Auto(count)
        if last is not None:
            prescreen.learn(*_known(table, last))
        return Screening(prescreen, share=share, bound=config.prescreen_miss, seed=config.seed)

    return make


def _last_values(config: TrainConfig, inputs: Inputs, table: TokenTable) -> Mapping[str, float] | None:
    """Return the last value of each sample in the earlier run; None without --prescreen-from."""
    run = inputs.artifacts.get("prescreen_from")
    if run is None:
        return None
    selector = run.config.get("selector")
    if selector != config.selector:
        raise ConfigError(
            f"The run '{run.name}' has the selector {selector}, and its scores do not tell what {config.selector} "
            "would keep: give --prescreen-from a run with the same selector."
        )
    name = inputs.store.display_names()[run.fingerprint]
    rows = inputs.store.query(LAST, {"run": name})
    found = dict(zip(rows["sample_id"].to_pylist(), rows["value"].to_pylist(), strict=True))
    if found.keys().isdisjoint(table.ids):
        raise DataError(
            f"The run '{run.name}' has scored no sample of the pool '{config.pool}': give --prescreen-from a run on "
            "the same samples."
        )
    return found


def _known(table: TokenTable, last: Mapping[str, float]) -> tuple[Any, Any]:
    """Return the rows of the table with a last value as candidates, and these values."""
    import torch

    from ...prescreens import Candidates

    index = [row for row, sample_id in enumerate(table.ids) if sample_id in last]
    tokens = torch.from_numpy(table.lengths[index]), torch.from_numpy(table.target_tokens[index])
    values = torch.tensor([last[table.ids[row]] for row in index], dtype=torch.float64)
    return Candidates(torch.tensor(index), *tokens), values


def prescreen_results(
    screening: Screening | None, counts: Mapping[str, int], step: int
) -> tuple[list[tuple[int, str, float]], dict[str, Any]]:
    """Return what the prescreen has done as metrics, and for the summary; nothing without a prescreen.

    The metrics are `prescreen_share` at the first step of each share, and after the last step the share of the kept
    samples that is missed (`prescreen_missed`), its interval (`_low`, `_high`), and the number of audited candidates.
    """
    if screening is None:
        return [], {}
    found = screening.misses.of_run()
    missed, low, high = found.shares
    history = screening.history()
    metrics = [(at, "prescreen_share", share) for at, share in history]
    metrics += [(step, "prescreen_missed", missed), (step, "prescreen_missed_low", low)]
    metrics += [(step, "prescreen_missed_high", high), (step, "prescreen_audited", float(found.audited))]
    seen, out = counts["samples_seen"], counts["samples_ruled_out"]
    summary = {
        "scored": f"{seen - out} of {seen} candidates",
        "missed by the prescreen": f"{missed:.1%} of what is kept (95 % interval {low:.1%} to {high:.1%}, "
        f"{found.audited} audited)",
        "share that passes": ", ".join(f"{share:g} from step {at}" for at, share in history),
    }
    return metrics, summary
