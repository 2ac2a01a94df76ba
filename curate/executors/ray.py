"""Executors that run tasks on the workers of a Ray cluster. Each worker has its own GPU if the cluster has GPUs.

A pass over a pool uses a Ray Data actor pool. A method that requests some gradients at a time needs workers that stay
loaded, so it has its own pool of actors. In both cases Ray restarts a lost worker and repeats its task. The result of a
task is renamed into place, so running a task twice does no harm. This is the only module that imports ray.
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
from .head_watch import HeadWatch
from .work import Task, Work, Worker, load_worker

BLOCKS = 1000
"""Number of blocks into which a long pass is divided. Each block is one Ray task, reported when it is finished."""

PATIENCE, RESTART = 3.0, 45.0
"""Seconds for which a process of Ray's may refuse connections: one that cannot return, and a head that can.

Ray itself gives up after 60 seconds.
"""

MAX_RESTARTS = 16
"""Maximum number of restarts of a worker that stays loaded, and of retries of a task. Ray Data has no such limit."""


@contextlib.contextmanager
def session(workers: int | None) -> Iterator[None]:
    """Connect to the cluster that RAY_ADDRESS names, or to one started on this machine, while open.

    A connection that existed before is used and stays open. Ray's own messages go to stderr, also those that it prints.

    Args:
        workers: the number of workers needed; None for as many as the cluster can run.

    Raises:
        ConfigError: Ray is not installed, the cluster cannot be reached, or it is too small.
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
            with HeadWatch(_head() if ours else {}):
                yield
        finally:
            if ours:
                ray.shutdown()


def _connect(workers: int | None) -> None:
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        cpus = max(os.cpu_count() or 1, (workers or 1) + 1)  # Ray needs one CPU more than there are workers
        try:
            ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)
        except Exception as error:  # Ray raises plain Exceptions, for example if a process of its own was killed
            raise StoreError(
                f"Ray did not start on this machine ({str(error).splitlines()[0]}): one of its processes was killed, "
                "or memory ran out. Finished tasks are kept: run the same command again."
            ) from error
        LOGGER.info("Started Ray on this machine; set RAY_ADDRESS to use a running cluster.")
        return
    try:
        ray.init(**quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if type(error.__cause__).__name__ == "AuthenticationError":
            raise ConfigError(
                f"The Ray cluster at RAY_ADDRESS={address} requires a token: set RAY_AUTH_MODE=token, and copy the "
                "cluster's ~/.ray/auth_token to this machine."
            ) from None
        raise ConfigError(
            f"There is no Ray cluster at RAY_ADDRESS={address} ({str(error).splitlines()[0]}): start one with "
            "ray start --head, or unset RAY_ADDRESS."
        ) from None
    LOGGER.info("Connected to Ray at %s.", address)


def _head() -> dict[str, tuple[str, float]]:
    """Return the addresses of Ray's processes without which this command cannot go on, see `HeadWatch`."""
    import ray
    from ray.util.client import ray as client

    if client.is_connected():  # type: ignore[no-untyped-call]  # its server is at the head and reports errors itself
        return {}
    here, local = ray.get_runtime_context(), not os.environ.get("RAY_ADDRESS")
    found = {here.gcs_address: ("head (gcs_server)", PATIENCE if local else RESTART)}
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["NodeID"] == here.get_node_id():
            found[f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"] = ("raylet on this machine", PATIENCE)
    return found


def _cluster_resources(workers: int | None) -> tuple[int, int]:
    """Return the number of workers to start and the number of GPUs per worker (0 or 1).

    Raises:
        ConfigError: the cluster is too small for this many workers.
    """
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    most = gpus or cpus - 1  # with a worker on every CPU, none is left for Ray Data, which then hangs
    if most < max(workers or 1, 1):
        has = f"{gpus} GPUs" if gpus else f"{cpus} CPUs, of which Ray itself needs one"
        raise ConfigError(f"The Ray cluster has {has}, and --workers is {workers or 1}: give fewer, or add nodes.")
    return workers or most, 1 if gpus else 0


class WorkerActor(Generic[Task]):
    """A worker in an actor of Ray's. It loads the model when it gets its first task.

    Args:
        work: the work that the tasks belong to.
        folder: the driver's working directory; relative paths start there.
    """

    def __init__(self, work: Work[Task], folder: str) -> None:
        self.work = work
        self.folder = folder
        self._worker: Worker[Task] | None = None

    def make(self, task: Task) -> str:
        """Run a task and return a report as JSON: its size and seconds, or an error that the user can fix."""
        try:
            if self._worker is None:
                self._worker = self._open()
            pending = self.work.missing([task])  # a worker may be lost after finishing a task but before reporting it
            seconds = self._worker(task, lambda _: None) if pending else {}
        except CurateError as error:
            kind = next(kind.__name__ for kind in type(error).__mro__ if hasattr(errors, kind.__name__))
            return json.dumps({"error": kind, "message": str(error)})
        return json.dumps({"size": self.work.size(task), "seconds": dict(seconds)})

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """Run a batch of one task, for Ray Data."""
        return {"report": [self.make(task) for task in batch["task"].tolist()]}

    def _open(self) -> Worker[Task]:
        try:
            os.chdir(self.folder)
        except OSError:
            raise StoreError(
                f"A Ray worker cannot find {self.folder}: the nodes of a cluster need a shared disk for the store and "
                "the models, mounted at the same path on every node."
            ) from None
        return load_worker(self.work)


class _RayExecutor(ABC, Generic[Task]):
    """Base of both Ray executors: it reads the workers' reports and then checks that the results are in the store."""

    def __init__(self, work: Work[Task], workers: int | None) -> None:
        self.work = work
        self.workers, self.gpus = _cluster_resources(workers)

    def make(self, tasks: Sequence[Task], *, label: str) -> Mapping[str, float]:
        """Run the tasks that are not finished, and return the seconds by part of the work.

        Raises:
            StoreError: workers were lost too often, or their results are not in this process's store.
            CurateError: a task failed with an error that the user can fix.
        """
        from ray.exceptions import RayActorError, RayError, RayTaskError

        pending = self.work.missing(tasks)
        total, left = sum(map(self.work.size, tasks)), sum(map(self.work.size, pending))
        seconds: Counter[str] = Counter()
        with bar(total=total, label=label, unit=self.work.unit, initial=total - left) as progress:
            try:
                for report in map(json.loads, self._reports(pending)) if pending else ():
                    if "error" in report:
                        raise getattr(errors, report["error"])(report["message"])
                    seconds.update(report["seconds"])
                    progress.update(report["size"])
            except RayActorError as error:
                raise StoreError(
                    f"Ray's workers were lost too often ({str(error).splitlines()[0]}): see Ray's logs for the reason. "
                    "If memory ran out, lower --score-batch-size or --workers. The same command resumes where this one "
                    "stopped."
                ) from None
            except RayTaskError:  # an error that curate did not expect, raised in a worker
                raise
            except RayError as error:
                raise StoreError(
                    f"Ray could not finish the tasks ({type(error).__name__}: {str(error).splitlines()[0]}): see Ray's "
                    "logs for the reason. The same command resumes where this one stopped."
                ) from None
        if self.work.missing(pending):
            raise StoreError(
                "Ray's workers have finished, but their files are not in the store: the nodes of a cluster need a "
                "shared disk for the store, mounted at the same path on every node."
            )
        return seconds

    def close(self) -> None:
        """Free the workers, if they stay loaded between calls."""

    @abstractmethod
    def _reports(self, tasks: Sequence[Task]) -> Iterator[str]:
        """Run the tasks and yield each worker's report as its task finishes."""


class RayDataExecutor(_RayExecutor[Task]):
    """Runs all tasks in one pass, with a Ray Data actor pool."""

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
    """Runs tasks on actors that stay loaded from one call to the next."""

    def __init__(self, work: Work[Task], workers: int | None) -> None:
        super().__init__(work, workers)
        self._actors: list[Any] = []

    def _reports(self, tasks: Sequence[Task]) -> Iterator[str]:
        import ray
        from ray.util import ActorPool

        if not self._actors:
            actor_class = ray.remote(
                num_cpus=0 if self.gpus else 1,
                num_gpus=self.gpus,
                max_restarts=MAX_RESTARTS,
                max_task_retries=MAX_RESTARTS,
            )(WorkerActor)
            self._actors = [actor_class.remote(self.work, os.getcwd()) for _ in range(self.workers)]
        pool: Any = ActorPool(self._actors)
        yield from pool.map_unordered(lambda actor, task: actor.make.remote(task), tasks)

    def close(self) -> None:
        """End the actors, which frees their GPUs."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
