"""Functions of users that a run calls after each step."""
