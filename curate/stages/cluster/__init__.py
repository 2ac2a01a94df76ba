"""Group the samples of a pool, name the groups, and find representatives and near duplicates."""

from .config import ClusterConfig

CONFIG = ClusterConfig
"""Class of the options. stage.py, which does the work, is imported when it is needed (`stage_of`)."""

__all__ = ["CONFIG", "ClusterConfig"]
