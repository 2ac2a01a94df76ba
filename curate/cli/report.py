"""`curate report`: the command. One page of one run, or of several side by side, written to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .flags import StoreFlag

EXAMPLES = """
curate report uds
curate report uds max_loss random --to reports/side-by-side.html --title "Three ways of choosing"
curate report uds --features feats --clusters topics --by domain,task --to uds.html --overwrite
curate report uds --map umap --max-samples 20000 --to uds.html
"""


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs over one pool, side by side.")],
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="The page to write.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option("--title", help="Heading of the page; else the runs' names.")] = None,
    max_samples: Annotated[
        int,
        typer.Option("--max-samples", min=1, help="Of a larger pool, show the most kept, then chance."),
    ] = 50_000,
    features: Annotated[
        str | None,
        typer.Option("--features", metavar="NAME", help="Features to draw the map by; else the newest of the pool."),
    ] = None,
    clusters: Annotated[
        str | None, typer.Option("--clusters", metavar="NAME", help="Clusters to group by; else the pool's newest.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", metavar="KEY", help="Group by this column of the pool, too. [repeatable]"),
    ] = None,
    method: Annotated[
        Literal["pca", "umap"], typer.Option("--map", help="How the map is drawn; umap wants the package umap-learn.")
    ] = "pca",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    store: StoreFlag = Path("store"),
) -> None:
    """`curate report`: write the page and print where it is."""
    from ..log import LOGGER
    from ..report.page import refuse_others, write
    from ..report.payload import payload
    from ..report.runs import ReportRequest, report_context
    from ..runtime.terminal import size
    from ..store import Store
    from ..store.catalog.session import QuerySession

    target = to.expanduser()
    refuse_others(target, overwrite=overwrite)
    keys = tuple(dict.fromkeys(part for text in by or () for part in text.split(",")))
    wish = ReportRequest(tuple(runs), title, max_samples, features, clusters, keys, method)
    source = Store(store)
    with QuerySession(source) as reader:
        content = payload(report_context(source, reader, wish))
    written = write(target, content)
    LOGGER.info(f"{size(written)} in {target}")
    print(target)
