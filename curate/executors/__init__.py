"""Run independent tasks: in this process, in the processes of torchrun, or on a Ray cluster."""
