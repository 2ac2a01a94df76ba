"""Options that choose an executor: this process, the processes of torchrun, or the workers of a Ray cluster."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..config import NOT_HASHED, Options
from ..errors import ConfigError
from ..runtime.distributed import size
from ..runtime.launch_watch import PROCESS_TIMEOUT
from .local import LocalExecutor
from .work import Executor, Task, Work


class LaunchOptions(Options):
    """Options for the processes of a launch by torchrun. The result does not depend on them."""

    process_timeout: Annotated[float, NOT_HASHED] = Field(
        PROCESS_TIMEOUT,
        ge=1,
        description="With torchrun: number of seconds without a sign of life after which another process counts as "
        "hanging, and the command ends.",
    )


class ExecutionOptions(LaunchOptions):
    """Options for the executor of a stage.

    The result does not depend on them: every file is the same to the byte (on CPUs: with the same OMP_NUM_THREADS).
    """

    engine: Annotated[Literal["local", "ray"], NOT_HASHED] = Field(
        "local",
        description="Where tasks run: local (this process, or those of torchrun) or ray (workers of a Ray cluster).",
    )
    workers: Annotated[int | None, NOT_HASHED] = Field(
        None,
        ge=1,
        description="Number of workers with --engine ray; by default the number of GPUs of the cluster, or the number "
        "of CPUs minus 1 if it has no GPUs.",
    )

    @model_validator(mode="after")
    def _check_workers(self) -> ExecutionOptions:
        if self.workers is not None and self.engine != "ray":
            raise ConfigError(
                "--workers needs --engine ray. Without Ray, set the number of processes with torchrun --nproc-per-node."
            )
        return self

    def session(self) -> AbstractContextManager[object]:
        """Connect to a Ray cluster, or start one, while open; do nothing for the local engine."""
        if self.engine == "local":
            return nullcontext()
        if size() > 1:
            raise ConfigError("--engine ray starts its own workers: run the command without torchrun.")
        from .ray import session

        return session(self.workers)


def executor_for(work: Work[Task], options: ExecutionOptions, *, once: bool) -> Executor[Task]:
    """Return an executor for the work. Call it while `options.session()` is open.

    Args:
        work: the work that the tasks belong to.
        options: the choice of executor.
        once: whether `make` is called only once. Otherwise the workers stay loaded for the next call.
    """
    if options.engine == "local":
        return LocalExecutor(work)
    from .ray import RayActorExecutor, RayDataExecutor

    return RayDataExecutor(work, options.workers) if once else RayActorExecutor(work, options.workers)
