"""Pieces of work made by the workers of a Ray cluster, each with a GPU to itself where the cluster has any.

A pass over a pool is a Ray Data actor pool. A method that asks for some gradients at a time needs workers that stay, so
it has a pool of actors of its own. In both, Ray starts a lost worker again and repeats what it was at; tasks are
renamed into place, so one that is made twice is made once. The only module that imports ray.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic

from .. import errors
from ..errors import ConfigError, CurateError, StoreError
from ..log import LOGGER, bar
from ..version import pip_install
from .work import Task, Work, Worker, load_worker

BLOCKS = 1000
"""Into how many parts a long pass is cut: each is a task of Ray's, and is reported when it is done."""

LIVES = 16
"""How often a worker that stays is started again, and what it was at repeated; Ray Data sets no limit."""


@contextlib.contextmanager
def session(workers: int | None) -> Iterator[None]:
    """A connection to the cluster that RAY_ADDRESS names, or to one started here; what was open before stays open.

    Ray's own messages go to stderr, also those that it prints.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray.data
    except ImportError:
        raise ConfigError(f"Ray is not installed: {pip_install('ray')}, or leave --engine ray out.") from None
    with contextlib.redirect_stdout(sys.stderr):
        ours = not ray.is_initialized()
        if ours:
            _connect(workers)
        try:
            _cluster_resources(workers)
            yield
        finally:
            if ours:
                ray.shutdown()


def _connect(workers: int | None) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        cpus = max(os.cpu_count() or 1, (workers or 1) + 1)  # Ray's own count: one more than there are workers
        ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)
        LOGGER.info("Started Ray on this machine; set RAY_ADDRESS to use a cluster that is running.")
        return
    try:
        ray.init(**quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if type(error.__cause__).__name__ == "AuthenticationError":
            raise ConfigError(
                f"The Ray cluster at RAY_ADDRESS={address} wants its token: set RAY_AUTH_MODE=token, and have the "
                "cluster's ~/.ray/auth_token here."
            ) from None
        raise ConfigError(
            f"There is no Ray cluster at RAY_ADDRESS={address} ({str(error).splitlines()[0]}): start one with "
            "ray start --head, or unset it."
        ) from None
    LOGGER.info("Connected to Ray at %s.", address)


def _cluster_resources(workers: int | None) -> tuple[int, int]:
    """How many workers there shall be, and how many GPUs each has."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    most = gpus or cpus - 1  # a pool as large as the CPUs leaves none to Ray Data, and does not go on
    if most < max(workers or 1, 1):
        has = f"{gpus} GPUs" if gpus else f"{cpus} CPUs, of which one is Ray's"
        raise ConfigError(f"The Ray cluster has {has}, and --workers is {workers or 1}: give fewer, or add nodes.")
    return workers or most, 1 if gpus else 0


class WorkerActor(Generic[Task]):
    """What runs in an actor.

    Args:
        work: what is to be done.
        folder: of the driver: where relative paths begin.
    """

    def __init__(self, work: Work[Task], folder: str) -> None:
        self.work = work
        self.folder = folder
        self._maker: Worker[Task] | None = None

    def make(self, task: Task) -> str:
        """Make a task; JSON of its size and seconds, or of the error that the user can mend."""
        try:
            if self._maker is None:
                self._maker = self._open()
            lost = self.work.missing([task])  # a worker may be lost between making a task and reporting it
            seconds = self._maker(task, lambda _: None) if lost else {}
        except CurateError as error:
            kind = next(kind.__name__ for kind in type(error).__mro__ if hasattr(errors, kind.__name__))
            return json.dumps({"error": kind, "said": str(error)})
        return json.dumps({"size": self.work.size(task), "seconds": dict(seconds)})

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """The same for Ray Data: a batch of one task."""
        return {"report": [self.make(task) for task in batch["task"].tolist()]}

    def _open(self) -> Worker[Task]:
        try:
            os.chdir(self.folder)
        except OSError:
            raise StoreError(
                f"A Ray worker does not find {self.folder}: the nodes of a cluster need a shared disk for store and "
                "models, mounted in the same place."
            ) from None
        return load_worker(self.work)


class _RayExecutor(ABC, Generic[Task]):
    """What both kinds of pool have in common: the reports, and a look at the store when all is said to be done."""

    def __init__(self, work: Work[Task], workers: int | None) -> None:
        self.work = work
        self.workers, self.gpus = _cluster_resources(workers)

    def make(self, tasks: Sequence[Task], *, label: str) -> Mapping[str, float]:
        """Have the missing tasks made."""
        from ray.exceptions import RayActorError

        pending = self.work.missing(tasks)
        total, left = sum(map(self.work.size, tasks)), sum(map(self.work.size, pending))
        seconds: Counter[str] = Counter()
        with bar(total=total, label=label, unit=self.work.unit, initial=total - left) as progress:
            try:
                for report in map(json.loads, self._reports(pending)) if pending else ():
                    if "error" in report:
                        raise getattr(errors, report["error"])(report["said"])
                    seconds.update(report["seconds"])
                    progress.update(report["size"])
            except RayActorError as error:
                raise StoreError(
                    f"Ray's workers were lost too often ({str(error).splitlines()[0]}): see Ray's logs for why; where "
                    "it was memory, lower --score-batch-size or --workers. The same command goes on where it stopped."
                ) from None
        if self.work.missing(pending):
            raise StoreError(
                "Ray's workers are done and their files are not in the store: the nodes of a cluster need a shared "
                "disk for it, mounted in the same place."
            )
        return seconds

    def close(self) -> None:
        """Let go of what making takes."""

    @abstractmethod
    def _reports(self, tasks: Sequence[Task]) -> Iterator[str]:
        """Have the tasks made; what their makers say of them, as they end."""


class RayDataExecutor(_RayExecutor[Task]):
    """A Ray Data actor pool for one pass over all tasks."""

    def _reports(self, tasks: Sequence[Task]) -> Iterator[str]:
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        count = min(len(tasks), max(BLOCKS, 2 * self.workers))
        blocks = ray.data.from_items([{"task": task} for task in tasks], override_num_blocks=count)
        reports = blocks.map_batches(
            WorkerActor,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(tasks))),
            fn_constructor_args=(self.work, os.getcwd()),
            num_cpus=0 if self.gpus else 1,
            num_gpus=self.gpus or None,
        )
        for row in reports.iter_rows():
            yield row["report"]


class RayActorExecutor(_RayExecutor[Task]):
    """Actors that stay from one request to the next."""

    def __init__(self, work: Work[Task], workers: int | None) -> None:
        super().__init__(work, workers)
        self._actors: list[Any] = []

    def _reports(self, tasks: Sequence[Task]) -> Iterator[str]:
        import ray
        from ray.util import ActorPool

        if not self._actors:
            hired = ray.remote(
                num_cpus=0 if self.gpus else 1, num_gpus=self.gpus, max_restarts=LIVES, max_task_retries=LIVES
            )(WorkerActor)
            self._actors = [hired.remote(self.work, os.getcwd()) for _ in range(self.workers)]
        pool: Any = ActorPool(self._actors)
        yield from pool.map_unordered(lambda actor, task: actor.make.remote(task), tasks)

    def close(self) -> None:
        """End the actors: their GPUs are free again."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
