"""The command line: parse, one call, print. A command's flags are built when it is invoked, and not before.

stdout carries data; logs, progress and messages go to stderr. Exit 0 done, 1 an error that the user can mend, 2 wrong
usage, 130 interrupted.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer import _click as click
from typer.core import TyperGroup
from typer.main import get_command

from .. import log
from ..errors import CurateError, did_you_mean, is_interrupt, of_system
from ..runtime.distributed import rank
from ..runtime.redaction import redacted
from ..runtime.terminal import harmless
from ..stages import STAGES, stage_of
from ..version import __version__

if TYPE_CHECKING:
    from ..config import Config

COMMANDS = {
    "inspect": (
        "curate.cli.inspect:command",
        "Show samples as a model will see them, and a pool in tokens.",
    ),
    "query": ("curate.cli.query:query", "Ask the store in SQL (read-only)."),
    "run": ("curate.cli.run:command", "Run a pipeline: a YAML list of stages."),
    "report": ("curate.cli.report:report", "Show runs in one page that opens offline: what was kept, and why."),
    "status": ("curate.cli.status:status", "Show what the store holds, what is stale, what is unfinished."),
    "resume": ("curate.cli.status:resume", "Go on with something that was begun and not finished."),
    "verify": ("curate.cli.maintenance:verify", "Check every file of the store, and the catalogue."),
    "gc": ("curate.cli.maintenance:gc", "Remove what killed processes have left over."),
    "repair": ("curate.cli.maintenance:repair", "Make again what is derived: the catalogue, indexes."),
    "doctor": ("curate.cli.doctor:doctor", "Show versions, devices, the store, and whether a planned run fits."),
}
"""Command that makes no artifact -> "module:function" and its description in one line.

The function's signature gives the flags.
"""

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Stages(TyperGroup):
    """Every stage and command by name and line; each becomes a command only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of a day's work."""
        return [*STAGES, *COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, built now."""
        if cmd_name in STAGES:
            return stage_command(cmd_name)
        return plain_command(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As Typer does it, with our suggestion."""
        if args[0] not in self.list_commands(ctx) and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"There is no command '{args[0]}'.{did_you_mean(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and lines, from the tables alone."""
        with formatter.section("Stages, each of which makes something in the store"):
            formatter.write_dl(list(STAGES.items()))
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _typer(*, completion: bool = False, **options: Any) -> typer.Typer:
    options |= {"add_completion": completion, "rich_markup_mode": None, "pretty_exceptions_enable": False}
    return typer.Typer(**options)


def _build(name: str, function: Callable[..., Any], text: str, examples: str) -> click.Command:
    app = _typer()
    lines = "\n".join(line.strip() for line in examples.strip().splitlines())
    epilog = f"Examples:\n\n\b\n{lines}" if lines else None
    app.command(name, help=text, epilog=epilog, context_settings=SETTINGS)(function)
    return get_command(app)


def stage_command(stage: str) -> click.Command:
    """A stage as a command, with its flags from its config."""
    from ..store import Store
    from .flags import with_flags
    from .stage import make_and_print

    def act(root: Path, config: Config) -> None:
        make_and_print(Store(root), stage, config)

    made = stage_of(stage)
    return _build(stage, with_flags(made.config, act), STAGES[stage], made.examples)


def plain_command(name: str) -> click.Command:
    """Return a command that makes no artifact, with its flags from its function's signature."""
    target, line = COMMANDS[name]
    module_name, _, function_name = target.partition(":")
    module = import_module(module_name)
    return _build(name, getattr(module, function_name), line, module.EXAMPLES)


def _show_version(given: bool) -> None:
    if given:
        print(f"curate {__version__}")
        raise typer.Exit


def build_app() -> click.Command:
    """The whole command line."""
    app = _typer(completion=True, cls=Stages, no_args_is_help=True, context_settings=SETTINGS)

    @app.callback()
    def top(
        version: Annotated[
            bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
        ] = False,
    ) -> None:
        """Choose the data that language models are fine-tuned on. Begin with: curate ingest --help"""

    return get_command(app)


def spelled(args: Sequence[str]) -> list[str]:
    """Arguments with `--max_length` spelt `--max-length`: both are understood."""
    return [re.sub(r"^--[^=]+", lambda flag: flag[0].replace("_", "-"), arg) for arg in args]


def _heed_interrupts() -> None:
    """The first Ctrl-C stops in good order; one more, or one on the way out, ends the process where it is.

    The store survives that as well.
    """

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    log.setup()
    if args is None:
        _heed_interrupts()
    if rank():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    try:
        code = build_app().main(spelled(sys.argv[1:] if args is None else args), "curate", standalone_mode=False)
    except click.exceptions.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except CurateError as error:
        print(f"Error: {harmless(redacted(str(error)))}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        if is_interrupt(error):
            code = 130
        elif (said := of_system(error)) is None:
            raise
        else:
            print(f"Error: {said}", file=sys.stderr)
            sys.exit(1)
    if code == 130:
        print("\nInterrupted: run the same command again to resume.", file=sys.stderr)
    sys.stdout.flush()
    sys.exit(code if isinstance(code, int) else 0)
