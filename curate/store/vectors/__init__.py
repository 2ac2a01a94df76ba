"""Vectors of samples: Parquet shards, nearest-neighbour indexes, k-means, and a cache of gradient features."""
