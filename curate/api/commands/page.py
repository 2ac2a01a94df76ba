"""Write the HTML page of a report."""

from __future__ import annotations

from pathlib import Path

from ...report.page import page
from ...report.payload import payload
from ...report.runs import ReportRequest, report_context
from ...store import Store
from ...store.catalog.session import QuerySession
from ...store.destinations import check_file, write_file


def write_report(store: Store, request: ReportRequest, to: Path, *, overwrite: bool) -> tuple[Path, int]:
    """Write a page about runs, and return its path and its size in bytes.

    Args:
        store: the store of the runs.
        request: the runs and what to show of them.
        to: the file to write.
        overwrite: replace the file if it exists.

    Raises:
        ConfigError: the file exists, or the destination cannot be written.
        CurateError: a run cannot be shown.
    """
    target = to.expanduser()
    check_file(target, store.root, overwrite=overwrite)
    with QuerySession(store) as reader:
        content = payload(report_context(store, reader, request))
    return target, write_file(target, page(content), store.root, overwrite=overwrite)
