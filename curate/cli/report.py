"""The command `curate report`: write an HTML page about one run, or about several runs side by side.

`curate.api.commands.page` writes the page; the package `curate.report` makes its content.
"""

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
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Names of runs over the same pool. The page shows them side by side."),
    ],
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="HTML file to write.")] = Path("report.html"),
    title: Annotated[
        str | None, typer.Option("--title", help="Heading of the page. The default is the names of the runs.")
    ] = None,
    max_samples: Annotated[
        int,
        typer.Option(
            "--max-samples", min=1, help="Show at most this many samples: the most often kept, then random ones."
        ),
    ] = 50_000,
    features: Annotated[
        str | None,
        typer.Option(
            "--features", metavar="NAME", help="Features for the map. The default is the newest features of the pool."
        ),
    ] = None,
    clusters: Annotated[
        str | None,
        typer.Option(
            "--clusters", metavar="NAME", help="Clusters to group by. The default is the newest clusters of the pool."
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option("--by", metavar="KEY", help="Also group the samples by this column of the pool. [repeatable]"),
    ] = None,
    method: Annotated[
        Literal["pca", "umap"],
        typer.Option("--map", help="Method for the map. umap needs the package umap-learn."),
    ] = "pca",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    store: StoreFlag = Path("store"),
) -> None:
    """Run `curate report`: write the page and print its path."""
    from ..api.commands.page import write_report
    from ..log import LOGGER
    from ..report.runs import ReportRequest
    from ..runtime.terminal import say, size
    from ..store import Store

    keys = tuple(dict.fromkeys(part for text in by or () for part in text.split(",")))
    request = ReportRequest(tuple(runs), title, max_samples, features, clusters, keys, method)
    target, written = write_report(Store(store), request, to, overwrite=overwrite)
    LOGGER.info(f"{size(written)} in {target}")
    say(str(target))
