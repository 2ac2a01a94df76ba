"""Per-sample gradients by autograd, one sample after the other: the slow, obvious twin of everything measured here.

Nothing of curate is used. Each text goes through the model alone and without padding, and its loss is the mean
cross-entropy of its targets from the model's own logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

IGNORE = -100
FLOOR = 1e-3
"""Share of the mean norm of parameters that a parameter's error is relative to at least: below it is rounding."""

Batch = dict[str, Tensor]
Blocks = dict[str, Tensor]


def batch_of(lengths: tuple[int, ...], vocabulary: int, *, seed: int = 1) -> Batch:
    """Return random texts, padded on the right with 0, whose targets begin at the third token."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(5, vocabulary, mask.shape, generator=generator) * mask
    labels = torch.where(mask.bool() & (torch.arange(max(lengths)) >= 2), ids, IGNORE)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def losses_alone(model: nn.Module, batch: Batch) -> list[Tensor]:
    """Return the differentiable loss of each text, computed alone."""
    out = []
    for ids, mask, labels in zip(*(batch[key] for key in ("input_ids", "attention_mask", "labels")), strict=True):
        n = int(mask.sum())
        logits = model(input_ids=ids[None, :n], attention_mask=mask[None, :n], use_cache=False).logits[0]
        out.append(nn.functional.cross_entropy(logits[:-1].float(), labels[1:n], ignore_index=IGNORE))
    return out


def gradients(model: nn.Module, batch: Batch) -> Blocks:
    """Return G_i, (n, ...), of every trained parameter; zero where the loss does not depend on a parameter."""
    model.train()
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rows = []
    for i in range(len(batch["input_ids"])):
        (loss,) = losses_alone(model, {key: value[i : i + 1] for key, value in batch.items()})
        rows.append(torch.autograd.grad(loss, list(parameters.values()), allow_unused=True))
    columns = zip(*rows, strict=True)
    return {
        name: torch.stack([torch.zeros_like(p) if g is None else g for g in column])
        for (name, p), column in zip(parameters.items(), columns, strict=True)
    }


def weighted(blocks: Blocks, weights: Tensor) -> Blocks:
    """Return Σ w_i G_i by parameter, from gradients (n, ...) and weights (n,)."""
    return {name: torch.tensordot(weights.to(block), block, dims=1) for name, block in blocks.items()}


def flat(blocks: Blocks) -> Tensor:
    """Return all gradients of a sample in one row, (n, P) float64."""
    return torch.cat([blocks[name].flatten(1).double() for name in sorted(blocks)], 1)


def relative(found: Tensor, wanted: Tensor) -> float:
    """Return ‖found - wanted‖ / ‖wanted‖."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm().clamp_min(1e-300))


def worst(found: Blocks, wanted: Blocks) -> tuple[float, str]:
    """Return the largest relative error of a parameter, and its name. A parameter that is missing has the error 1.

    The error is relative to the parameter's own norm, or to FLOOR of the mean norm where it is smaller than that.
    """
    norms = {name: float(block.double().norm()) for name, block in wanted.items()}
    floor = FLOOR * (sum(norm**2 for norm in norms.values()) / len(norms)) ** 0.5
    errors = []
    for name, block in wanted.items():
        have = found.get(name)
        difference = norms[name] if have is None else float((have.double() - block.double()).norm())
        errors.append((difference / max(norms[name], floor), name))
    return max(errors)
