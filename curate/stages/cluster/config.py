"""Options of `curate cluster`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ...config import NOT_HASHED, NamedConfig, Ref


class ClusterConfig(NamedConfig):
    """Configuration of `curate cluster`."""

    features: Ref = Field(description="Features of the pool, made by curate embed.")
    on: Literal["sketch", "embedding"] = Field("sketch", description="Vectors to cluster: sketch or embedding.")
    k: int = Field(ge=2, description="Number of clusters.")
    seed: int = Field(0, ge=0, description="Seed of the initial centroids, and of the samples drawn with --sample.")
    iterations: int = Field(
        20, ge=1, description="Maximum number of iterations; k-means stops earlier if no sample changes its cluster."
    )
    redo: int = Field(1, ge=1, description="Number of initializations to try; the best result is kept.")
    representatives: int = Field(3, ge=1, description="Number of representatives: the samples closest to a centroid.")
    sample: int = Field(
        100_000,
        ge=2,
        description="Maximum number of samples to learn the centroids from, drawn at random; all samples are assigned.",
    )
    nearest: bool = Field(
        True, description="Find the nearest other sample of each; the cost grows with the square of the pool's size."
    )
    index: Literal["auto", "flat", "ivf", "ivfpq"] = Field(
        "auto",
        description="Index for that search: flat is exact; auto is flat up to 262144 samples and 1 GiB, else "
        "approximate.",
    )
    silhouette_sample: int = Field(2000, ge=0, description="Number of samples for the silhouette score; 0 skips it.")
    backend: Annotated[Literal["auto", "faiss", "numpy"], NOT_HASHED] = Field(
        "auto", description="Search library: auto is faiss if it is installed, else numpy, which is always exact."
    )

    def obvious_name(self) -> str:
        """Return a name made of that of the features."""
        return f"{self.features.removesuffix('-features')}-clusters"

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.sample < self.k:
            raise ValueError(f"k is {self.k}, so sample must be at least {self.k}, but it is {self.sample}")
        return self
