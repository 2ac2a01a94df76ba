"""A method for each stage. Its keywords are the options of the command; see `methods.py` for their types and help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from ..errors import ConfigError
from ..log import LOGGER
from ..store.store import Store as PlainStore
from .methods import described, values_for

if TYPE_CHECKING:
    from ..training.callbacks.step_report import OnStep
    from . import options as types
    from .results.result import AdviceResult, Result
    from .results.shown import Preview


class StageMethods(PlainStore):
    """A store with a method for each stage.

    Each method returns the artifact that its options describe: it finds it, or makes it. An option that names an
    artifact or a model also takes the result of another method. An error that the user can fix is a `CurateError`.
    """

    def _make(self, stage: str, given: Mapping[str, object], on_step: OnStep | None = None) -> Result:
        from ..stages import build_config, make_or_find, plain
        from ..stages.train.config import TrainConfig
        from .results.result import Result

        if on_step is not None and not callable(on_step):
            raise ConfigError(f"on_step is called after each step, so give a function, not {on_step!r:.40}.")
        store = plain(self)
        config = build_config(stage, values_for(store, given))
        if isinstance(config, TrainConfig):
            config = config.observed_by(on_step)
        artifact, fresh = make_or_find(store, stage, config)
        if on_step is not None and not fresh:
            LOGGER.warning(f"'{artifact.name}' is made already, so on_step is not called.")
        return Result.of(store, artifact, fresh=fresh)

    def _preview(self, stage: str, given: Mapping[str, object]) -> Preview:
        from ..stages import build_config, plain, stage_of
        from .results.shown import preview_of

        store, preview = plain(self), stage_of(stage).preview
        assert preview is not None
        config = build_config(stage, {**values_for(store, given), "dry_run": True})
        return preview_of(f"Plan of {stage} {config.name}", preview(config, store) or "")

    @described
    def demo_pool(self, **options: Unpack[types.DemoPoolOptions]) -> Result:
        """Generate the pool of the demo: instruction pairs with planted duplicates and noise."""
        return self._make("demo-pool", options)

    @described
    def demo_model(self, **options: Unpack[types.DemoModelOptions]) -> Result:
        """Pre-train the tiny model of the demo."""
        return self._make("demo-model", options)

    @described
    def ingest(self, **options: Unpack[types.IngestOptions]) -> Result:
        """Read a pool of instruction data into the store."""
        return self._make("ingest", options)

    @overload
    def embed(self, *, dry_run: Literal[True], **options: Unpack[types.EmbedOptions]) -> Preview: ...

    @overload
    def embed(self, *, dry_run: Literal[False] = False, **options: Unpack[types.EmbedOptions]) -> Result: ...

    @overload
    def embed(self, *, dry_run: bool, **options: Unpack[types.EmbedOptions]) -> Result | Preview: ...

    @described
    def embed(self, *, dry_run: bool = False, **options: Any) -> Result | Preview:
        """Measure every sample of a pool with a model: loss, utility, sketch.

        Args:
            dry_run: return how many samples would be measured, and make nothing.
        """
        return self._preview("embed", options) if dry_run else self._make("embed", options)

    @described
    def grade(self, **options: Unpack[types.GradeOptions]) -> Result:
        """Say what is wrong with the texts of a pool: copies, refusals, cut answers, personal data and more."""
        return self._make("grade", options)

    @described
    def cluster(self, **options: Unpack[types.ClusterOptions]) -> Result:
        """Cluster a pool by its sketches or embeddings."""
        return self._make("cluster", options)

    @described
    def select(self, **options: Unpack[types.SelectOptions]) -> Result:
        """Select a subset of a pool before training, within a budget."""
        return self._make("select", options)

    @described
    def train(self, *, on_step: OnStep | None = None, **options: Unpack[types.TrainOptions]) -> Result:
        """Fine-tune with online batch selection.

        Args:
            on_step: function that receives a `StepReport` after each step. If it returns False, the run saves a
                checkpoint and `RunStopped` is raised; if it raises an error, the run ends with this error. `resume`
                continues the run in both cases, and calls the function for each step after the last checkpoint. Nothing
                is called for a run that is made already.
        """
        return self._make("train", options, on_step)

    @described
    def curriculum(self, **options: Unpack[types.CurriculumOptions]) -> Result:
        """Order and weight the samples of a pool by the ledgers of past runs."""
        return self._make("curriculum", options)

    @described
    def subset(self, **options: Unpack[types.SubsetOptions]) -> Result:
        """Keep the samples of a pool that a query, a file of ids or other subsets name."""
        return self._make("subset", options)

    @described
    def dedup(self, **options: Unpack[types.DedupOptions]) -> Result:
        """Keep one sample of each group of copies in a pool."""
        return self._make("dedup", options)

    @described
    def decontaminate(self, **options: Unpack[types.DecontaminateOptions]) -> Result:
        """Leave out the samples of a pool that hold held-out rows."""
        return self._make("decontaminate", options)

    @described
    def split(self, **options: Unpack[types.SplitOptions]) -> Result:
        """Split a pool into parts for training and for held-out rows, without copies across."""
        return self._make("split", options)

    @described
    def merge(self, **options: Unpack[types.MergeOptions]) -> Result:
        """Merge the adapter of a model into its weights."""
        return self._make("merge", options)

    @described
    def attribute(self, **options: Unpack[types.AttributeOptions]) -> Result:
        """Rank the samples that a run was trained on by their influence on answers."""
        return self._make("attribute", options)

    @described
    def evaluate(self, **options: Unpack[types.EvaluateOptions]) -> Result:
        """Measure a model: held-out loss, correct answers, benchmarks."""
        return self._make("evaluate", options)

    @described
    def compare(self, **options: Unpack[types.CompareOptions]) -> Result:
        """Compare selectors over seeds at equal budgets, with controls."""
        return self._make("compare", options)

    @overload
    def advise(self, *, dry_run: Literal[True], **options: Unpack[types.AdviseOptions]) -> Preview: ...

    @overload
    def advise(self, *, dry_run: Literal[False] = False, **options: Unpack[types.AdviseOptions]) -> AdviceResult: ...

    @overload
    def advise(self, *, dry_run: bool, **options: Unpack[types.AdviseOptions]) -> AdviceResult | Preview: ...

    @described
    def advise(self, *, dry_run: bool = False, **options: Any) -> Result | Preview:
        """Advise which data and which selector to use within a budget, and whether it is worth it.

        Args:
            dry_run: return the plan of the race, and make nothing.
        """
        return self._preview("advise", options) if dry_run else self._make("advise", options)

    @described
    def export(self, **options: Unpack[types.ExportOptions]) -> Result:
        """Write a curated subset as a dataset."""
        return self._make("export", options)
