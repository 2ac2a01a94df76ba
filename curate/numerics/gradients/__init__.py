"""Per-sample gradients of a model's trained parameters, from one backward pass over a batch.

A linear layer y = W x with inputs A_i (T×d) and output gradients B_i (T×p) of sample i has the gradient G_i = B_iᵀ A_i.
Experts, embeddings, norms and other small modules have their own forms (`sites`, `experts`). Products of gradients are
summed over the parameters while the backward pass runs (`recorder`); the G_i themselves are kept only on request.
"""

from .capture import Sites, capture, find_sites, restored_gradients
from .division import CaptureError
from .products import Blocks, dots_of, gram_of, squares_of, weighted_sum
from .recorder import GradientRequest, GradientResult, Recorder
from .sketch import InnerProducts, SignHash, Sketch
from .two_sided import TwoSided
from .uses import Dense

__all__ = [
    "Blocks",
    "CaptureError",
    "Dense",
    "GradientRequest",
    "GradientResult",
    "InnerProducts",
    "Recorder",
    "SignHash",
    "Sites",
    "Sketch",
    "TwoSided",
    "capture",
    "dots_of",
    "find_sites",
    "gram_of",
    "restored_gradients",
    "squares_of",
    "weighted_sum",
]
