"""The store that users import: each command is a method with typed keywords, and its result can be shown.

    from curate import Store

    store = Store("store")
    pool = store.ingest(data=["chats.jsonl"], name="chats")
    run = store.train(pool=pool, model="demo-model", name="chats-uds", on_step=lambda step: print(step.loss))

In a notebook a result is a table with a small picture. `result.df()` is a pandas data frame, `result.arrow()` an Arrow
table, and `result.sql` the SQL behind it. A method prints nothing; progress bars and the log go to stderr.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from ..errors import ConfigError, QueryError
from ..stages import make_or_find, plain
from ..store.catalog.limits import TIMEOUT, Limits, bytes_of
from .methods import checked, config_of, described, values_for
from .stage_methods import StageMethods

if TYPE_CHECKING:
    from ..store import Artifact
    from ..training.callbacks.step_report import OnStep
    from . import options as types
    from .results.answer import Answer
    from .results.inspection import InspectionResult
    from .results.result import Page, Result
    from .results.shown import Rows
    from .results.tables import Findings, PipelineResult


class Store(StageMethods):
    """A folder of artifacts, with a method for each command.

    Args:
        root: the folder; it is created when the first artifact is made.
    """

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    def _repr_html_(self) -> str:
        return self.status()._repr_html_() if (self.root / "store.json").exists() else "<p>an empty store</p>"

    @checked
    def result(self, name: str | Artifact) -> Result:
        """Return an artifact that is made, as the method that made it returned it.

        Args:
            name: name of the artifact.

        Raises:
            ArtifactNotFound: nothing has this name.
        """
        from .results.result import Result

        store = plain(self)
        return Result.of(store, store.get(values_for(store, {"name": name})["name"]))

    @described
    def inspect(self, **options: Unpack[types.InspectOptions]) -> InspectionResult:
        """Show samples as the model will see them, and count the tokens of a pool."""
        from ..config import build
        from .commands.inspection import InspectConfig, inspect_pool
        from .results.inspection import InspectionResult

        store = plain(self)
        return InspectionResult(inspect_pool(store, build(InspectConfig, values_for(store, options))))

    @checked
    def query(
        self,
        sql: str,
        params: Mapping[str, Any] | Sequence[Any] = (),
        limits: Limits | None = None,
        *,
        timeout: float | None = None,
        memory: str | None = None,
        allow_files: bool = False,
    ) -> Answer:
        """Run read-only SQL over the whole store; `questions` and `tables` show what can be asked.

        Without limits a query runs in this process. With `timeout`, `memory` or `allow_files` it runs in another one,
        which takes about half a second more; the limits that are not given are then those of `curate query`.

        Args:
            sql: one statement that only reads, a `.sql` file, or the name of a saved question.
            params: values of `$name` in the SQL, by name or in order.
            limits: the limits as one object, instead of the next three.
            timeout: seconds after which the query is stopped.
            memory: memory of the query and its answer, such as "2GB".
            allow_files: allow the SQL to read files outside the store.

        Raises:
            QueryError: the statement is wrong, does more than read, or exceeds the limits.
            ConfigError: a limit is no limit, or limits are given twice.
        """
        from .commands.questions import find
        from .results.answer import Answer

        if sql.strip() == "-":
            raise QueryError("'-' is stdin, which only the command line reads: give the SQL itself.")
        found = find(sql, self.root)
        given = timeout is not None or memory is not None or allow_files
        if given and limits is not None:
            raise ConfigError("Give limits, or timeout, memory and allow_files, not both.")
        if timeout is not None and timeout <= 0:
            raise ConfigError(f"timeout is a number of seconds above 0, not {timeout}.")
        if given:
            limits = Limits(TIMEOUT if timeout is None else timeout, bytes_of(memory or "2GB"), allow_files)
        if isinstance(params, Mapping):
            params = values_for(plain(self), params)
        return Answer(super().query(found, params, limits), found, params)

    @checked
    def questions(self) -> Rows:
        """List the saved questions, which `query` takes by name: name, question, SQL."""
        from .commands.questions import questions
        from .results.shown import Rows

        rows = [{"name": each.name, "asks": each.asks, "sql": each.sql} for each in questions(self.root)]
        return Rows("Saved questions", ["name", "asks", "sql"], rows)

    @checked
    def tables(self) -> Rows:
        """List the tables that SQL can read, with their columns, types and comments."""
        from ..store.catalog.query import dictionary
        from .results.shown import Rows

        return Rows("Tables", ["table", "column", "type", "comment"], dictionary(plain(self)))

    @checked
    def report(
        self,
        *runs: str | Artifact,
        to: str | Path = "report.html",
        title: str | None = None,
        max_samples: int = 50_000,
        features: str | Artifact | None = None,
        clusters: str | Artifact | None = None,
        by: Sequence[str] = (),
        method: Literal["pca", "umap"] = "pca",
        overwrite: bool = False,
    ) -> Page:
        """Write an HTML page about one or more runs over the same pool.

        Args:
            runs: the runs, side by side.
            to: HTML file to write.
            title: heading of the page; by default the names of the runs.
            max_samples: show at most this many samples: the most often kept, then random ones.
            features: features for the map; by default the newest of the pool.
            clusters: clusters to group by; by default the newest of the pool.
            by: columns of the pool to group samples by.
            method: method for the map; umap needs the package umap-learn.
            overwrite: replace the file if it exists.

        Raises:
            CurateError: a run cannot be shown, or the file cannot be written.
        """
        from ..report.runs import ReportRequest
        from .commands.page import write_report
        from .results.result import Page

        if not runs:
            raise ConfigError("A report needs a run: store.report('NAME').")
        if max_samples < 1:
            raise ConfigError(f"max_samples must be at least 1, not {max_samples}.")
        store = plain(self)
        named = values_for(store, {"runs": list(runs), "features": features, "clusters": clusters})
        keys = (by,) if isinstance(by, str) else tuple(dict.fromkeys(by))
        request = ReportRequest(
            tuple(named["runs"]), title, max_samples, named["features"], named["clusters"], keys, method
        )
        path, size = write_report(store, request, Path(to), overwrite=overwrite)
        return Page(path, size, [self.result(name) for name in named["runs"]])

    @checked
    def status(self) -> Rows:
        """List the artifacts of the store, and which of them are stale or unfinished."""
        from .results.tables import status_rows

        return status_rows(plain(self))

    @described
    def resume(self, name: str, *, on_step: OnStep | None = None, **options: Unpack[types.ResumeOptions]) -> Result:
        """Resume an unfinished artifact, which may be of another person: it gets only what the call allows.

        Args:
            name: name of the unfinished artifact, as `status` shows it.
            on_step: as in `train`, for a run.

        Raises:
            CurateError: there is no such artifact, it cannot be resumed, or it asks for what is not allowed.
        """
        from ..stages.train.config import TrainConfig
        from .commands.allowed import consent_of
        from .commands.resuming import unfinished
        from .results.result import Result

        store = plain(self)
        stage, config = unfinished(store, name, consent_of(values_for(store, options)))
        if isinstance(config, TrainConfig):
            config = config.observed_by(on_step)
        elif on_step is not None:
            raise ConfigError(f"'{name}' is made by {stage}, which has no steps: leave out on_step.")
        artifact, fresh = make_or_find(store, stage, config)
        return Result.of(store, artifact, fresh=fresh)

    @described
    def run(self, file: str | Path, sets: Iterable[str] = (), **options: Unpack[types.RunOptions]) -> PipelineResult:
        """Run a pipeline, which is a list of stages in a YAML file; it gets only what the call allows.

        Args:
            file: the YAML file, or the name of a pipeline that comes with curate.
            sets: overrides `NAME.KEY=VALUE` of options, where `NAME` is what an entry makes.

        Raises:
            CurateError: the file or an entry is wrong, or asks for what is not allowed.
        """
        from .commands.allowed import consent_of
        from .commands.pipelines import next_steps, read, with_consent_of
        from .results.tables import PipelineResult, pipeline_rows

        store, path = plain(self), Path(file)
        overrides = [sets] if isinstance(sets, str) else list(sets)
        entries = with_consent_of(read(path, overrides, self.root), path, consent_of(values_for(store, options)))
        following = next_steps(path)
        results: dict[str, Result | Answer] = {}
        for entry in entries:
            if entry.query is not None:
                results[entry.label] = self.query(entry.sql, entry.query.params or {}, entry.query.limits)
            elif entry.config is not None:
                results[entry.label] = self._made(entry.stage, entry.config)
        rows = pipeline_rows(entries, results)
        return PipelineResult(f"Pipeline {path}", list(rows[0]), rows, notes=following, results=results)

    def _made(self, stage: str, config: Any) -> Result:
        from .results.result import Result

        store = plain(self)
        artifact, fresh = make_or_find(store, stage, config)
        return Result.of(store, artifact, fresh=fresh)

    @described
    def doctor(self, **options: Unpack[types.DoctorOptions]) -> Findings:
        """Check versions, devices and the store, and estimate whether a planned run fits."""
        from ..config import build
        from ..doctor.examine import examine
        from .results.tables import findings

        planned: Any = build(config_of("doctor"), values_for(plain(self), options))
        return findings(examine(self.root, planned))

    @checked
    def verify(self, name: str | Artifact | None = None) -> Rows:
        """Check every file of the store and the catalogue, or of one artifact, for damage: one row for each defect."""
        from .commands.maintenance import defects
        from .results.shown import Rows

        store = plain(self)
        found = defects(store, values_for(store, {"name": name})["name"])
        rows = [{"path": str(each.path), "wrong": each.wrong, "remedy": each.remedy} for each in found]
        return Rows(f"Defects in {self.root}", ["path", "wrong", "remedy"], rows)

    @checked
    def gc(self, *, yes: bool = False, drafts: bool = False) -> Rows:
        """List or remove files that killed processes left behind.

        Args:
            yes: remove the files. Otherwise they are only listed.
            drafts: include unfinished artifacts, which could still be resumed.
        """
        from .commands.maintenance import collect
        from .results.shown import Rows

        rows = [
            {"path": str(each.path), "what": each.what, "bytes": each.bytes, "removed": removed}
            for each, removed in collect(plain(self), drafts=drafts, remove=yes)
        ]
        return Rows(f"Files that can be removed in {self.root}", ["path", "what", "bytes", "removed"], rows)

    @checked
    def repair(self) -> Rows:
        """Rebuild damaged files that are derived from others: the catalogue and the indexes.

        Raises:
            StoreError: a damaged file remains that cannot be rebuilt.
        """
        from .commands.maintenance import repaired
        from .results.shown import Rows

        return Rows(f"Repaired in {self.root}", ["repaired"], [{"repaired": line} for line in repaired(plain(self))])
