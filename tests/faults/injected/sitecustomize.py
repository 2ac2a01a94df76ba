"""On PYTHONPATH of a command under test: lets the fault that the environment tells of happen to it."""

from tests.faults.injection import arm_from_environment

arm_from_environment()
