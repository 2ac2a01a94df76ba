"""Run independent tasks: in this process, in the processes of torchrun, or on a Ray cluster.

Each task writes its result to the store atomically and deterministically. Finished tasks are found by looking in the
store, so there is no coordinator, and a task whose worker was lost is simply run again.
"""
