"""Vectors of samples: Parquet shards, nearest-neighbour indexes, k-means, a cache of gradients."""
