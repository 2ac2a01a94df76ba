"""What a token costs in floating-point operations, by the usual count: two a weight and pass."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenCost:
    """Operations a token.

    Attributes:
        forward: of a forward pass.
        train: of a forward and a backward pass.
    """

    forward: float
    train: float


def token_cost(weights: int, adapter: int | None = None) -> TokenCost:
    """forward = 2·N and train = 6·N; with an adapter of A weights on frozen ones 2·(N + A) and 4·N + 6·A.

    Source: Kaplan et al., Scaling Laws for Neural Language Models, arXiv 2001.08361, section 2.1: 2·N forward, twice
    that backward, half of it for gradients of activations and half for those of weights, which frozen ones go without.
    Left out: attention's products of activations (they grow with the length), norms, the optimizer, and whatever a
    selector computes beside the model's passes.

    Args:
        weights: N, those that a token is multiplied with: the head counts, a table that is only looked up does not.
        adapter: A; None where all weights train.
    """
    if adapter is None:
        return TokenCost(forward=2.0 * weights, train=6.0 * weights)
    return TokenCost(forward=2.0 * (weights + adapter), train=4.0 * weights + 6.0 * adapter)
