"""Install the fault of the environment in a command under test. This file is on its PYTHONPATH."""

from tests.faults.injection import arm_from_environment

arm_from_environment()
