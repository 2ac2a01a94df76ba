"""Laws of errors: what the system refuses is the user's to mend, what is our fault is not called theirs."""

from __future__ import annotations

from curate.errors import of_system


def test_what_the_system_refuses_is_told_from_what_is_our_fault() -> None:
    assert "no space left" in str(of_system(OSError(28, "No space left on device", "x")))
    assert "no space left" in str(of_system(RuntimeError("I/O error: No space left on device (os error 28)")))
    wrapped = RuntimeError("file write failed")
    wrapped.__cause__ = OSError(30, "Read-only file system")
    assert "read-only" in str(of_system(wrapped))
    assert of_system(ValueError("x")) is None and of_system(FileNotFoundError(2, "No such file")) is None
