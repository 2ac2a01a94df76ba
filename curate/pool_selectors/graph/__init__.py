"""Pool selectors that read the graph of nearest neighbours, and that graph."""
