"""Approximate a target vector by a sparse non-negative combination of given vectors.

Only inner products are needed: the Gram matrix K of the vectors and their products r with the target. The vectors
themselves (here: gradients) never have to be in memory together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
import scipy.optimize
import torch
from torch import Tensor

from .ranking import best


def nnls(gram: Tensor, right: Tensor) -> Tensor:
    """Return argmin_{w ≥ 0} ½ wᵀK w − rᵀw, for positive definite K (n, n) and r (n,): (n,) float64.

    With the Cholesky factor K = LLᵀ the problem becomes min_{w ≥ 0} ‖Lᵀw − L⁻¹r‖, which Lawson and Hanson's method
    solves exactly.
    """
    lower = np.linalg.cholesky(gram.double().numpy())
    target = scipy.linalg.solve_triangular(lower, right.double().numpy(), lower=True)
    return torch.from_numpy(scipy.optimize.nnls(lower.T, target)[0])


def fast_nnls(gram: Tensor, right: Tensor) -> Tensor:
    """Return what `nnls` returns, up to rounding, for problems in which few weights are 0.

    Negative weights of the minimum without bounds are set to 0 and the others refitted, until none is negative. If the
    result satisfies the conditions of optimality it is returned; otherwise `nnls` runs.
    """
    rows, weights = torch.arange(len(right)), torch.zeros_like(right)
    while len(rows):
        lower = torch.linalg.cholesky(gram[rows][:, rows])
        free = torch.cholesky_solve(right[rows, None], lower)[:, 0]
        if bool((free >= 0).all()):
            weights[rows] = free
            break
        rows = rows[free > 0]
    slope = right - gram @ weights
    slope[rows] = 0
    return nnls(gram, right) if bool((slope > 1e-12 * right.abs().max()).any()) else weights


@dataclass(frozen=True)
class Match:
    """A sparse non-negative combination.

    Attributes:
        chosen: indices of the vectors, in the order in which they were picked. A vector that was swapped in has the
            place of the one that it replaced.
        weights: (len(chosen),) float64, their weights, not normalised.
        gains: (len(chosen),), [c_i]₊² / (K_ii + λ) at the moment each vector was picked or swapped in: twice the
            decrease of the objective if the weights of the others stay. Later swaps do not change it.
        swaps: number of vectors that are not among the greedy picks.
    """

    chosen: list[int]
    weights: Tensor
    gains: list[float]
    swaps: int = 0

    def used(self) -> Match:
        """Return the match without the vectors of weight 0."""
        rows = (self.weights > 0).nonzero()[:, 0].tolist()
        return Match([self.chosen[i] for i in rows], self.weights[rows], [self.gains[i] for i in rows], self.swaps)


def matching_pursuit(
    gram: Tensor, right: Tensor, k: int, *, ridge: float, swaps: bool = False, chance: Tensor | None = None
) -> Match:
    """Solve min_{w ≥ 0, |w|₀ ≤ k} ½ wᵀ(K + λI)w − rᵀw greedily, with λ = ridge · mean diagonal of K.

    Each step picks argmax [c_i]₊² / (K_ii + λ), where c = r − K w is the residual, and refits the weights of all picked
    vectors with `nnls`. The search stops after k picks or when no gain is left. A copy of a picked vector has
    c ≤ 0 up to the ridge, and a vector that points away from the target is never picked. With `swaps`, `improved`
    exchanges picks for other vectors while that lowers the objective.

    Args:
        gram: K, (n, n), the inner products of the vectors with each other.
        right: r, (n,), the inner products of the vectors with the target.
        k: the maximum number of vectors to pick.
        ridge: λ relative to the mean diagonal of K.
        swaps: True to improve the greedy picks by exchanges.
        chance: (n,) int64, numbers that decide between equal gains; None: the first of equal ones is picked.
    """
    problem = Problem.of(gram, right, ridge, chance)
    match = problem.pursue(Match([], torch.zeros(0, dtype=torch.float64), []), k, nnls)
    return problem.improved(match, k) if swaps and match.chosen else match


@dataclass(frozen=True)
class Problem:
    """The matching problem min_{w ≥ 0} f(w) = ½ wᵀRw − rᵀw, R = K + λI, over sparse w, and moves that lower f.

    Attributes:
        regular: R, (n, n) float64.
        right: r, (n,) float64.
        diagonal: K_ii, (n,) float64.
        lam: λ.
        ridge: λ relative to the mean of K_ii.
        chance: (n,) int64, decides between equal gains; None: the first.
    """

    TRIES = 32
    """Number of exchanges, best bounds first, for which weights are refitted before the best of them is made."""

    regular: Tensor
    right: Tensor
    diagonal: Tensor
    lam: float
    ridge: float
    chance: Tensor | None = None

    @classmethod
    def of(cls, gram: Tensor, right: Tensor, ridge: float, chance: Tensor | None) -> Problem:
        """Return the problem of a Gram matrix; `matching_pursuit` describes the arguments."""
        gram, right = gram.double(), right.double()
        diagonal = gram.diagonal()
        lam = ridge * float(diagonal.mean())
        regular = gram + lam * torch.eye(len(gram), dtype=torch.float64)
        return cls(regular, right, diagonal, lam, ridge, chance)

    def pursue(self, match: Match, k: int, refit: Callable[[Tensor, Tensor], Tensor]) -> Match:
        """Return the match after further greedy picks, up to k vectors, with weights by `refit(R_SS, r_S)`."""
        chosen, weights, gains = list(match.chosen), match.weights, list(match.gains)
        # A copy of a picked vector keeps a residual of the order of the ridge: a gain below this threshold is none.
        threshold = 1e-3 * self.ridge * gains[0] if gains else 0.0
        while len(chosen) < k:
            residual = self.right - (self.regular[:, chosen] @ weights if chosen else 0)
            gain = residual.clamp_min(0).square() / (self.diagonal + self.lam)
            gain[chosen] = 0
            pick = best(gain, self.chance)
            if float(gain[pick]) <= threshold:
                break
            threshold = threshold or 1e-3 * self.ridge * float(gain[pick])
            chosen.append(pick)
            gains.append(float(gain[pick]))
            weights = self._refit(chosen, refit)
        return Match(chosen, weights, gains, match.swaps)

    def improved(self, greedy: Match, k: int) -> Match:
        """Return the best match that exchanges reach from two starts; each exchange lowers f.

        The starts are the greedy picks, and the best k of twice as many greedy picks: the one whose loss raises f least
        is dropped until k are left.
        """
        starts = greedy.used(), self._reduced(self.pursue(greedy, 2 * k, fast_nnls), k)
        ends = [self._exchanged(start, k) for start in starts]
        values = [self._objectives(end.chosen, end.weights)[0] for end in ends]
        end = ends[int(values[1] < values[0] - self._tolerance * abs(values[0]))]
        return replace(end, swaps=len(set(end.chosen) - set(greedy.chosen)))

    def _reduced(self, match: Match, k: int) -> Match:
        match = match.used()
        while len(match.chosen) > k:
            index = torch.tensor(match.chosen)
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(self.regular[index][:, index]))
            place = int((match.weights.square() / inverse.diagonal()).argmin())
            chosen = match.chosen[:place] + match.chosen[place + 1 :]
            gains = match.gains[:place] + match.gains[place + 1 :]
            match = Match(chosen, self._refit(chosen, fast_nnls), gains).used()
        return match

    def _exchanged(self, match: Match, k: int) -> Match:
        """Make the best exchange until none lowers f, at most 4·k times.

        With M = R_SS⁻¹ of the picked S, B = M R_S· and the residual c = r − R w, the minimum of f without i and with j,
        if weights could be negative, is

            f + w_i² / 2M_ii − (c_j + w_i B_ij / M_ii)² / 2(R_jj − R_jSᵀB_·j + B_ij² / M_ii)

        for all pairs (i, j) at once: one product of (k, k) with (k, n). It bounds what an exchange can reach, so
        weights are refitted only for the pairs of the lowest bounds, until no other pair can be better. While fewer
        than k are picked, additions compete with exchanges.

        An exchange counts if it lowers f, and also f₀ = f − ½ λ‖w‖², by more than a share ridge·(1 % + ridge). A copy
        of a picked vector lowers f, because the penalty of two halves is smaller, but it lowers f₀ by less than this.
        """
        for _ in range(4 * k):
            found = self._best_exchange(match, k) if match.chosen else None
            if found is None:
                break
            match = found.used()
        return match

    @property
    def _tolerance(self) -> float:
        return self.ridge * (0.01 + self.ridge) + 1e-12

    def _best_exchange(self, match: Match, k: int) -> Match | None:
        bounds, gains = self._bounds(match, k)
        before, fit_before = self._objectives(match.chosen, match.weights)
        limit = self._tolerance * abs(fit_before)
        reached, found = before - limit, None
        for place, j in self._lowest(bounds):
            if not float(bounds[place, j]) < reached:
                break
            chosen = [*match.chosen[:place], j, *match.chosen[place + 1 :]]
            weights = self._refit(chosen, fast_nnls)
            after, fit_after = self._objectives(chosen, weights)
            if after < reached and fit_after < fit_before - limit:
                reached = after
                found = Match(
                    chosen, weights, [*match.gains[:place], float(gains[place, j]), *match.gains[place + 1 :]]
                )
        return found

    def _lowest(self, bounds: Tensor) -> list[tuple[int, int]]:
        """Return the pairs of the lowest bounds, ascending; `chance` orders equal ones."""
        n = bounds.shape[1]
        order = torch.arange(n) if self.chance is None else self.chance.argsort(descending=True, stable=True)
        flat = bounds[:, order].flatten()
        low = (flat <= flat.kthvalue(min(self.TRIES, len(flat))).values).nonzero()[:, 0]
        ranked = low[flat[low].argsort(stable=True)][: self.TRIES].tolist()
        return [(pair // n, int(order[pair % n])) for pair in ranked]

    def _bounds(self, match: Match, k: int) -> tuple[Tensor, Tensor]:
        """Return the bound of f for each place and vector, and the gain of the vector there, (places, n) each."""
        index, weights = torch.tensor(match.chosen), match.weights
        across = self.regular[index]
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(across[:, index]))
        b, own = inverse @ across, inverse.diagonal()[:, None]
        residual = self.right - across.mT @ weights
        rest = self.regular.diagonal() - (across * b).sum(0)
        c, rest_of = residual + weights[:, None] * b / own, rest + b.square() / own
        loss = weights[:, None].square() / (2 * own)
        if len(index) < k:  # an addition is an exchange of nothing
            c, rest_of = torch.cat([c, residual[None]]), torch.cat([rest_of, rest[None]])
            loss = torch.cat([loss, loss.new_zeros(1, 1)])
        bound = loss - 0.5 * self.right[index] @ weights - c.square() / (2 * rest_of)
        bound[(c <= 0) | (rest_of <= 0)] = torch.inf
        bound[:, index] = torch.inf
        return bound, c.clamp_min(0).square() / self.regular.diagonal()

    def _refit(self, chosen: list[int], refit: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        index = torch.tensor(chosen)
        return refit(self.regular[index][:, index], self.right[index])

    def _objectives(self, chosen: list[int], weights: Tensor) -> tuple[float, float]:
        """Return f, and f₀ without the ridge."""
        index = torch.tensor(chosen)
        f = 0.5 * float(weights @ self.regular[index][:, index] @ weights) - float(self.right[index] @ weights)
        return f, f - 0.5 * self.lam * float(weights.square().sum())


def cap(weights: Tensor, limit: float) -> Tensor:
    """Scale weights to sum 1 with none above `limit`; the excess is shared among the other weights.

    A limit below 1 / n cannot be met by n weights, so 1 / n is then used instead.

    Args:
        weights: (n,) non-negative weights.
        limit: the largest weight allowed.
    """
    limit = max(limit, 1 / len(weights))
    weights = weights / weights.sum()
    for _ in range(len(weights)):
        over = weights > limit + 1e-12
        if not over.any():
            break
        free = 1 - limit * int((weights >= limit - 1e-12).sum())
        rest = weights < limit - 1e-12
        weights = weights.clamp_max(limit)
        if rest.any() and float(weights[rest].sum()) > 0:
            weights[rest] *= free / weights[rest].sum()
        else:
            weights = weights / weights.sum()
    return weights
