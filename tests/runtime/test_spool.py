"""Bytes of a spool are read as they were written, from memory or from a file without a name."""

from __future__ import annotations

from pathlib import Path

from curate.runtime.spool import LARGEST, Spool


def test_bytes_are_read_as_they_were_written_and_no_file_shows(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        spool, parts = Spool(folder), [bytes([n]) * (LARGEST // 4) for n in range(9)]
        for part in parts:
            spool.write(part)
        for _ in range(2):
            assert b"".join(spool.parts()) == b"".join(parts)
        spool.clear()
        assert list(spool.parts()) == []
        spool.write(b"new")
        assert spool.file().read() == b"new"
    assert list(tmp_path.iterdir()) == []
