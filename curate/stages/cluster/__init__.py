"""Group the samples of a pool, name the groups, and find representatives and near duplicates."""

from .config import ClusterConfig
from .stage import STAGE

__all__ = ["STAGE", "ClusterConfig"]
