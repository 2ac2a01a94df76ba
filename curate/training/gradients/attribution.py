"""Inner products of training samples' gradients with those of queries, at one checkpoint of a run.

⟨Γ(∇ℓ_i), ∇ℓ_q⟩ is how much a step on sample i lowers the loss of query q, for a learning rate of 1 and to first order.
ℓ is the mean loss of a text over the tokens that are trained on. The metric says what Γ is:

    plain   Γ(g) = g, the step of SGD. TracIn, Pruthi et al., NeurIPS 2020 (arXiv 2002.08484), equation 1.
    adam    Γ(g) = P g with P = 1 / (√v̄ + ε): what a gradient adds to AdamW's steps in all, as the shares
            (1 − β₁) β₁ᵏ of the momentum add up to 1. v̄ = (β₂ v + (1 − β₂) E[ḡ²]) / (1 − β₂^τ) is that of the coming
            step, with E[ḡ²] from samples of the run. A v̄ without the coming step is 0 for the matrices A of a LoRA
            adapter, which have no gradient at first. It is linear in g. Other optimizers have their own P.
    less    cos(Γ, ∇ℓ_q) with Γ = m̂ / (√v̂ + ε), the next step if g were its gradient. LESS, Xia et al., ICML 2024
            (arXiv 2402.04333), section 3.1. It is not linear: m̂ and v̂ contain g and all gradients before it.

Parameters with different learning rates have Γ in proportion to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ...errors import ModelError
from ...lm.model.config_checks import ModelOptions
from ...lm.model.load import load_model
from ...lm.model.scoring_model import make_scoring_model
from ...lm.tokens.batch import collate
from ...log import LOGGER
from ...numerics.gradients import GradientRequest, InnerProducts, Sketch
from ...numerics.losses import IGNORE
from .engine import GradientEngine
from .features import state_of
from .optimizers import Moments, cross_of
from .token_products import NotDifferentiable, token_losses_along

Metric = Literal["adam", "plain", "less"]

Row = Mapping[str, Any]
"""A text for the collator: `input_ids` and `labels`, (L,) int64."""

AGREES = 1e-2
"""Limit of the error of the sum of tokens' products, relative to the sum of their sizes. Rounding errs by 1e-6."""


class QueryProducts:
    """Inner products of texts' gradients with those of queries.

    Args:
        engine: engine with the model and the optimizer's state.
        metric: `adam`, `plain` or `less`; see the module.
        sketch: projection in which products are estimated; None: they are exact.

    Attributes:
        finite: (Q,) bool, which queries have a finite gradient; set by `ask`.
    """

    def __init__(self, engine: GradientEngine, metric: Metric, sketch: Sketch | None = None) -> None:
        self.engine, self.metric, self.sketch = engine, metric, sketch
        self.finite = torch.ones(0, dtype=torch.bool)
        self._scales: dict[str, Callable[[Tensor], Tensor]] = {}
        self._directions: InnerProducts | None = None
        self._sketches = torch.zeros(0)
        self._norms = torch.ones(0)
        self._copies = False

    @classmethod
    def at(
        cls,
        options: ModelOptions,
        metric: Metric,
        sketch: Sketch | None = None,
        *,
        coverage: str = "all",
        micro_batch: int = 16,
        clip: float = 0.0,
    ) -> QueryProducts:
        """Load a checkpoint of a run, with the state of its optimizer.

        Args:
            options: options for loading the model; `options.location` is the checkpoint.
            metric: `adam`, `plain` or `less`.
            sketch: projection in which products are estimated; None: they are exact.
            coverage: `all` or `linear`, see `GradientEngine`.
            micro_batch: number of texts in a backward pass.
            clip: norm to which the run clipped the gradient of a step; 0 for no clipping.

        Raises:
            ModelError: the model or the optimizer's state cannot be loaded, or the optimizer has no metric.
        """
        model = load_model(options, trainable=True).to("cuda" if torch.cuda.is_available() else "cpu")
        state = replace(state_of(Path(options.location), model), clip=clip)
        if metric != "plain" and isinstance(state.rule, ModelError):
            raise ModelError(f"{state.rule} With --metric plain no metric is needed.")
        scoring_model = make_scoring_model(model)
        engine = GradientEngine(scoring_model, None, lambda: state, coverage=coverage, micro_batch=micro_batch)
        return cls(engine, metric, sketch)

    @property
    def weights(self) -> int:
        """Number of weights whose gradients are measured."""
        return sum(p.numel() for p in self.engine.passes.measured.values())

    def learn_metric(self, rows: Sequence[Row], kept: int) -> None:
        """Measure the moments of samples' gradients, from which the metric `adam` estimates E[ḡ²] of a step.

        Args:
            rows: samples of the run.
            kept: number of samples in a step of the run.
        """
        if self.metric != "adam":
            return
        state, measured = self.engine.adam(), self.engine.passes.measured
        sums = {name: [torch.zeros_like(p, dtype=torch.float32) for _ in range(2)] for name, p in measured.items()}
        crosses: dict[str, Tensor] = {}

        def add(name: str, block: Tensor) -> Tensor:
            sums[name][0] += block.sum(0)
            sums[name][1] += block.square().sum(0)
            if state.needs_cross(name):
                crosses[name] = cross_of(block) + crosses.get(name, 0)
            return block

        with self.engine.scoring_model.eval_mode(refresh=False):
            self.engine.pass_over(_padded(rows), GradientRequest(transform=add, norms=True))
        n, moments = len(rows), {}
        for name, (total, square) in sums.items():
            cross = crosses.get(name, cross_of(total[None] * 0)) / n if state.needs_cross(name) else None
            moments[name] = Moments(float(n), total / n, square / n, cross)
        self._scales = state.roots(moments, "adam", kept=kept)

    def _scaled(self, name: str, block: Tensor) -> Tensor:
        """Return Γ of gradients of the parameter `name`, (n, ...), in a metric that is linear."""
        if self.metric == "adam":
            root = self._scales[name]
            return root(root(block))
        return block * self.engine.adam().rates.get(name, 0.0)

    def ask(self, queries: Sequence[Row]) -> None:
        """Measure the gradients of the Q queries, and hold what the products with them need.

        Memory: exact products hold Q gradients of all measured weights in float32, sketches Q·D numbers.
        """
        scaled = None if self.metric == "less" else self._scaled
        with self.engine.scoring_model.eval_mode(refresh=False):
            if self.sketch is not None:
                request = GradientRequest(sketch=self.sketch, transform=scaled, norms=True)
                found = self.engine.pass_over(_padded(queries), request)
                self._sketches, self._norms = found.values["sketch"], found.values["grad_norm"]
            else:
                kept = self.engine.pass_over(_padded(queries), GradientRequest(keep=True)).kept
                blocks = {name: kept.pop(name) for name in list(kept)}
                self._directions = InnerProducts(
                    {name: block if scaled is None else scaled(name, block) for name, block in blocks.items()}
                )
                squares = [block.flatten(1).square().sum(1).double() for block in self._directions.directions.values()]
                self._norms = torch.stack(squares).sum(0).sqrt()
        self.finite = self._norms.isfinite().cpu()

    def products(self, rows: Sequence[Row]) -> Tensor:
        """Return the products of n texts with the queries, (n, Q) float64 on the CPU.

        A gradient that is not finite gives NaN. A text without a loss has no gradient, so its products are 0.
        """
        into = self.sketch if self.sketch is not None else self._directions
        assert into is not None
        adam = self.engine.adam()
        request = GradientRequest(sketch=into)
        if self.metric == "less":
            request = GradientRequest(sketch=into, transform=adam.update, norms=True)
        with self.engine.scoring_model.eval_mode(refresh=False):
            found = self.engine.pass_over(_padded(rows), request).values
        products = found["sketch"].double()
        if self.sketch is not None:
            products = products @ self._sketches.double().mT
        if self.metric == "less":
            norms = found["grad_norm"].double()[:, None] * self._norms.double()
            products = (products / norms).where(norms > 0, 0)
            products = products.where(found["loss"][:, None] != 0, 0)  # the update would be the momentum alone
        finite = found["sketch"].isfinite().all(1, keepdim=True)
        return products.where(finite, torch.nan).cpu()

    def token_products(self, row: Row) -> Tensor:
        """Return ⟨Γ(∇ℓ_t / T), ∇ℓ_q⟩ for each of a text's T target tokens: (T, Q) float64 on the CPU, exact.

        ℓ = Σ_t ℓ_t / T, and Γ is linear, so the products of the tokens add up to that of the text. They are the
        derivative of the tokens' losses along each query's gradient: one forward pass for each query (forward-mode
        differentiation). Where the model has an operation without it, or their sum is wrong, each token gets a backward
        pass of its own.
        """
        assert self._directions is not None and self.metric != "less"
        if not self._copies:
            whole = self.products([row])[0]
            try:
                found = token_losses_along(self.engine.scoring_model, row, self._directions.directions)
                if bool(((found.sum(0) - whole).abs() <= AGREES * found.abs().sum(0) + 1e-12).all()):
                    return found
                reason = "their sum is not the product of the text"
            except NotDifferentiable as error:
                reason = str(error)
            self._copies = True
            LOGGER.warning(
                f"Each token gets a backward pass of its own, because forward-mode differentiation fails: {reason}. "
                "The numbers are exact, but this takes longer."
            )
        return self._one_by_one(row)

    def _one_by_one(self, row: Row) -> Tensor:
        """Return the products of tokens, each from a copy of the text in which it is the only target."""
        targets = target_places(row)
        copies = []
        for place in targets.tolist():
            labels = torch.full((len(row["labels"]),), IGNORE).numpy()
            labels[place] = row["labels"][place]
            copies.append({"input_ids": row["input_ids"], "labels": labels})
        size = max(1, self.engine.micro_batch)
        parts = [self.products(copies[start : start + size]) for start in range(0, len(copies), size)]
        return torch.cat(parts) / len(targets)


def target_places(row: Row) -> Tensor:
    """Return the places of a text's target tokens, (T,) int64. The first token is none, because nothing predicts it."""
    labels = torch.as_tensor(row["labels"])
    return (labels[1:] != IGNORE).nonzero()[:, 0] + 1


def _padded(rows: Sequence[Row]) -> dict[str, Tensor]:
    return collate(rows, pad_token_id=0)
