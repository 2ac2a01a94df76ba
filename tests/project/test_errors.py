"""Laws of errors: an error of the system is one that the user can fix; a fault of curate is not reported as one."""

from __future__ import annotations

from curate.errors import LISTED, did_you_mean, of_system


def test_errors_of_the_system_are_recognised_and_faults_of_curate_are_not() -> None:
    assert "no space left" in str(of_system(OSError(28, "No space left on device", "x")))
    assert "no space left" in str(of_system(RuntimeError("I/O error: No space left on device (os error 28)")))
    wrapped = RuntimeError("file write failed")
    wrapped.__cause__ = OSError(30, "Read-only file system")
    assert "read-only" in str(of_system(wrapped))
    assert of_system(ValueError("x")) is None and of_system(FileNotFoundError(2, "No such file")) is None


def test_an_error_lists_a_few_known_names_and_counts_the_others() -> None:
    assert did_you_mean("zzz", ["b", "a"]) == " Known: a, b." and did_you_mean("uda", ["uds"]) == " Did you mean 'uds'?"
    many = did_you_mean("zzz", [f"name{i:03}" for i in range(LISTED + 7)])
    assert many.endswith(f"name{LISTED - 1:03} and 7 others.") and f"name{LISTED:03}" not in many
