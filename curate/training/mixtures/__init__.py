"""Mix the labels of a pool in given or learned shares: the stream of candidates, the bandit, counts by label."""
