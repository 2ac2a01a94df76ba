"""Send the log of a run to trackers, such as TensorBoard or MLflow, with curves of the selection."""
