"""Floating-point operations per token, by the usual estimate: two operations per weight and pass."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenCost:
    """Floating-point operations per token.

    Attributes:
        forward: operations of a forward pass.
        train: operations of a forward and a backward pass together.
    """

    forward: float
    train: float


def token_cost(weights: int, adapter: int | None = None) -> TokenCost:
    """Return the cost of a token: forward = 2·N and train = 6·N operations.

    With an adapter of A trainable weights on N frozen weights: forward = 2·(N + A) and train = 4·N + 6·A.

    Source: Kaplan et al., Scaling Laws for Neural Language Models, arXiv 2001.08361, section 2.1. The forward pass
    takes 2·N operations and the backward pass twice as many. Half of the backward pass computes gradients of
    activations and half computes gradients of weights; frozen weights do not need the second half.
    Not counted: attention's products of activations (they grow with the text's length), norms, the optimizer, and
    anything that a selector computes in addition to the model's passes.

    Args:
        weights: N, the number of weights that a token is multiplied with. The head counts; an embedding table that is
            only looked up does not.
        adapter: A, the number of trainable weights of the adapter; None if all weights are trained.
    """
    if adapter is None:
        return TokenCost(forward=2.0 * weights, train=6.0 * weights)
    return TokenCost(forward=2.0 * (weights + adapter), train=4.0 * weights + 6.0 * adapter)
