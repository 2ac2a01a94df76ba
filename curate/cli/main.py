"""The entry point of the command line: parse the arguments, call one function, print the result.

The flags of a command are built when the user calls the command, so that `curate --help` imports nothing slow. stdout
carries data. Logs, progress and messages go to stderr. Exit codes: 0 for success, 1 for an error that the user can fix,
2 for wrong usage, 130 for an interrupt.
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
from ..errors import TRACEBACK, did_you_mean
from ..garbage import search_rarely
from ..runtime.distributed import rank
from ..runtime.ending import leave
from ..runtime.launch_watch import obey_launcher
from ..runtime.terminal import EscapingStream, say
from ..stages import STAGES, stage_of
from ..version import __version__
from .boundary import exit_code

if TYPE_CHECKING:
    from ..config import Config

COMMANDS = {
    "inspect": (
        "curate.cli.inspect:command",
        "Show samples as the model will see them, and count the tokens of a pool.",
    ),
    "query": ("curate.cli.query:query", "Run a read-only SQL query on the store."),
    "run": ("curate.cli.run:command", "Run a pipeline, which is a list of stages in a YAML file."),
    "report": (
        "curate.cli.report:report",
        "Write an HTML page about one or more runs: the kept samples, the scores and the losses.",
    ),
    "watch": (
        "curate.cli.pages.watch:watch",
        "Show a run while it trains, on a page that only this machine can open.",
    ),
    "status": (
        "curate.cli.status:status",
        "List the artifacts of the store, and which of them are stale or unfinished; follow a run.",
    ),
    "resume": ("curate.cli.status:resume", "Resume an unfinished artifact."),
    "verify": ("curate.cli.maintenance:verify", "Check every file of the store and the catalogue for damage."),
    "gc": ("curate.cli.maintenance:gc", "List or remove files that killed processes left behind."),
    "repair": (
        "curate.cli.maintenance:repair",
        "Rebuild damaged files that are derived from others: the catalogue and the indexes.",
    ),
    "docs": ("curate.cli.docs:docs", "Open the documentation in the browser, without a network."),
    "doctor": (
        "curate.cli.doctor:doctor",
        "Check versions, devices and the store, and estimate whether a planned run fits.",
    ),
}
"""Name of a command that makes no artifact -> ("module:function", one-line help).

The signature of the function gives the flags.
"""

OTHER_NAMES = {
    **dict.fromkeys(("list", "ls", "show", "info", "artifacts"), "status"),
    **dict.fromkeys(("add", "import", "load", "prepare"), "ingest"),
    **dict.fromkeys(("sql", "search"), "query"),
    **dict.fromkeys(("view", "preview", "tokenize", "head"), "inspect"),
    **dict.fromkeys(("fit", "finetune", "sft"), "train"),
    **dict.fromkeys(("check", "fsck", "validate"), "verify"),
    **dict.fromkeys(("clean", "prune", "rm", "remove", "delete"), "gc"),
    **dict.fromkeys(("eval", "test", "score", "benchmark"), "evaluate"),
    **dict.fromkeys(("influence", "trace", "why"), "attribute"),
    **dict.fromkeys(("save", "push", "publish"), "export"),
    "plot": "report",
    **dict.fromkeys(("dashboard", "monitor", "live", "follow"), "watch"),
    "continue": "resume",
    "env": "doctor",
    **dict.fromkeys(("manual", "documentation", "man"), "docs"),
}
"""Name that other tools give to a command -> its name here, for suggestions."""

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Stages(TyperGroup):
    """The group of all stages and commands. It builds a command only when the user calls it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order in which a user needs them."""
        return [*STAGES, *COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Build a command, or return None if there is no such command."""
        if cmd_name in STAGES:
            return stage_command(cmd_name)
        return plain_command(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Resolve a command as Typer does, and suggest the nearest name for an unknown one."""
        if args[0] not in self.list_commands(ctx) and not args[0].startswith("-") and not ctx.resilient_parsing:
            usual = OTHER_NAMES.get(args[0])
            hint = f" Did you mean '{usual}'?" if usual else did_you_mean(args[0], self.list_commands(ctx))
            ctx.fail(f"There is no command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names and the one-line helps. This imports no command."""
        with formatter.section("Stages (each makes an artifact in the store)"):
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
    """Return the command of a stage. The fields of its config give the flags."""
    from .flags import with_flags

    def act(root: Path, config: Config) -> None:
        from ..store import Store
        from .stage import make_and_print

        make_and_print(Store(root), stage, config)

    made = stage_of(stage)
    return _build(stage, with_flags(made.config, act), STAGES[stage], made.examples)


def plain_command(name: str) -> click.Command:
    """Return a command that makes no artifact. The signature of its function gives the flags."""
    target, line = COMMANDS[name]
    module_name, _, function_name = target.partition(":")
    module = import_module(module_name)
    return _build(name, getattr(module, function_name), line, module.EXAMPLES)


def _show_version(given: bool) -> None:
    if given:
        say(f"curate {__version__}")
        raise typer.Exit


def _want_tracebacks(given: bool) -> None:
    if given:
        os.environ[TRACEBACK] = "1"


def build_app() -> click.Command:
    """Return the whole command line."""
    app = _typer(completion=True, cls=Stages, no_args_is_help=True, context_settings=SETTINGS)

    @app.callback()
    def top(
        version: Annotated[
            bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
        ] = False,
        tracebacks: Annotated[
            bool,
            typer.Option(
                "--traceback",
                callback=_want_tracebacks,
                help="Print the traceback of an error, too. The same as CURATE_TRACEBACK=1.",
            ),
        ] = False,
    ) -> None:
        """Select the data for fine-tuning of language models. Start with: curate ingest --help"""

    return get_command(app)


def spelled(args: Sequence[str]) -> list[str]:
    """Return the arguments with `-` for `_` in names of flags, so that `--max_length` means `--max-length`."""
    return [re.sub(r"^--[^=]+", lambda flag: flag[0].replace("_", "-"), arg) for arg in args]


def _handle_interrupts() -> None:
    """Let the first Ctrl-C stop the command in good order, and a second one, or one at exit, end the process at once.

    The store stays sound in both cases.
    """

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code.

    Args:
        args: its words. None for those of this process, which is then all curate's own and ends here (`leave`).
    """
    if args is None:
        search_rarely()
        _handle_interrupts()
        obey_launcher()
    stdout, stderr, tracebacks = sys.stdout, sys.stderr, os.environ.get(TRACEBACK)
    sys.stderr = EscapingStream(stderr)
    log.setup()
    if rank():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
    given = spelled(sys.argv[1:] if args is None else args)
    code = exit_code(lambda: build_app().main(given, "curate", standalone_mode=False))
    if args is None:
        leave(code)
    sys.stdout, sys.stderr = stdout, stderr  # called from Python, which goes on
    os.environ.pop(TRACEBACK, None) if tracebacks is None else os.environ.update({TRACEBACK: tracebacks})
    sys.exit(code)
