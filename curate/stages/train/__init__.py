"""Fine-tune a model with online batch selection.

The package imports only the options, so that `curate train --help` is fast; stage.py does the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...runtime.distributed import size
from ..stage import Stage
from .config import TrainConfig

if TYPE_CHECKING:
    from ...store import Draft
    from ..inputs import Inputs

EXAMPLES = """\
curate train --pool pool --model Qwen/Qwen2.5-0.5B --selector uds --candidates 64 --keep 8 --name run
curate train --pool pool --model M --selector uds --set selector_args.alpha=1.5e-3 --name run2
curate train --pool pool --model M --selector random --max-steps 500 --eval-pool heldout --name baseline
curate train --pool pool --model M --pool-selector cluster_ucb --selection-budget 0.05 --clusters clusters \
--target heldout --selector full --candidates 8 --num-train-epochs 3 --name dynamic
curate train --pool pool --subset curriculum --sequence --model M --selector full --candidates 8 --name ordered
curate train --pool pool --model M --mix alpaca=0.5,dolly=0.3,rest=0.2 --name mixed
curate train --config configs/uds.yaml --scope micro:4      # keep 1 of each 4, as the authors' script does
"""


def run(config: TrainConfig, inputs: Inputs, draft: Draft) -> None:
    """Fine-tune, and resume where a stopped run left off."""
    from .stage import run as fine_tune_model

    fine_tune_model(config, inputs, draft)


def check(config: TrainConfig) -> None:
    """Raise `ConfigError` if the selector needs an artifact that no option names, or cannot have a prescreen."""
    from .joined_features import check_requirements
    from .mixing import check_mix
    from .prescreening import check_prescreen

    check_requirements(config)
    check_prescreen(config)
    check_mix(config)


def more_inputs(config: TrainConfig, inputs: Inputs) -> dict[str, str]:
    """Return what else decides the result: the processes, what becomes of an adapter, the labels that SQL gives.

    The number of processes counts if each process selects among its own candidates. With `--scope global` several
    processes keep the same samples as one. Runs on an adapter were once trained without it, so their results differ.
    """
    from ..inputs import is_adapter

    more = {"processes": str(size())} if size() > 1 and config.per_rank else {}
    if is_adapter(inputs.locations["model"]):
        more["adapter"] = "merged" if config.full else "continued"
    if config.by_label is not None or config.mix_by != "source":
        from .mixing import check_labels

        more |= check_labels(config, inputs)
    return more


STAGE = Stage(TrainConfig, run, EXAMPLES, distributed=True, more_inputs=more_inputs, check=check)

__all__ = ["STAGE"]
