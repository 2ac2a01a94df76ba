"""Pure tensor and array mathematics. It imports torch, numpy and scipy, and no other package of this project."""
