"""Render chat templates in a process of their own, with limits of time, memory and output.

A chat template is a program that comes with a model. This process runs one for `rendering.py`, in Jinja's sandbox, with
the names that transformers gives to chat templates. It is started by path, so it imports Jinja and nothing of ours.
Requests and answers are JSON, each after its length in 8 bytes.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of a message's reasoning. Templates read it under any of the first two."""


PLAIN = (str, int, float, list, tuple, dict, type(None), jinja2.Undefined)
"""Types of values that are written as the same text in every process."""


class TimeLimit(BaseException):
    """A template that computes for too long. It is no Exception, so that no filter catches it."""


class SizeLimit(Exception):
    """A template that makes too much text."""


class RaisedByTemplate(jinja2.TemplateError):
    """An error that the template itself raises with `raise_exception`."""


class TrackGeneration(Extension):
    """Record where in the output the parts between `{% generation %}` and `{% endgeneration %}` are."""

    tags = {"generation"}  # noqa: RUF012 - the type of Jinja's class
    written = 0
    spans: list[tuple[int, int]] | None = None

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse a part that the assistant generates."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("record"), [], [], body).set_lineno(line)

    def record(self, caller: Callable[[], str]) -> str:
        """Return the text of a part, and note its span."""
        text = caller()
        if self.spans is not None:
            self.spans.append((self.written, self.written + len(text)))
        return text


class SafeNamespace(Namespace):
    """A template's namespace without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        values = dict(*rest, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class SafeDict:
    """The function `dict` without the attributes of the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """Return a dictionary with the given keys."""
        return dict.fromkeys(*args)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot have the attribute {name!r}")


def _raise_exception(message: Any) -> None:
    raise RaisedByTemplate(str(message))


def _not_random(*args: Any, **kwargs: Any) -> Any:
    raise jinja2.exceptions.SecurityError("it draws at random, so that it renders something else each time")


def _not_now(form: Any) -> str:
    raise jinja2.exceptions.SecurityError("it reads the clock while it is compiled")


def _written(value: Any) -> Any:
    """Return a value that a template writes, unless it is written as an address, which differs in each process."""
    if isinstance(value, PLAIN) or " at 0x" not in repr(value):
        return value
    raise jinja2.exceptions.SecurityError(
        f"it writes the address of a {type(value).__name__}, so that it renders something else each time"
    )


def strftime_on(date: str) -> Callable[[Any], str]:
    """Return the function `strftime_now` of a day, which begins at midnight: `date` is YYYY-MM-DD."""
    return lambda form: datetime.fromisoformat(date).strftime(form)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment() -> ImmutableSandboxedEnvironment:
    """Return the environment of chat templates, with the names and filters that transformers gives them."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[TrackGeneration, "jinja2.ext.loopcontrols"],
        finalize=_written,
    )
    made.filters |= {"tojson": _tojson, "random": _not_random}
    made.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _not_now,  # each conversation brings its own, with a frozen day
        "lipsum": _not_random,
        "dict": SafeDict(),
        "namespace": SafeNamespace,
    }
    return made


class Worker:
    """The compiled template."""

    def __init__(self) -> None:
        self.source: str | None = None
        self.template: Any = None

    def answer(self, request: dict[str, Any], size: int) -> dict[str, Any]:
        """Return the answer to a request: the rendered texts, or the kind of an error and its text."""
        try:
            signal.setitimer(signal.ITIMER_PROF, request["seconds"])
            try:
                self._compile(request.get("template"))
                return self._render(request, size) if "chat" in request else {}
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
        except TimeLimit:
            return {"error": "time"}
        except MemoryError:
            return {"error": "memory"}
        except Exception as error:
            return _failure(error)

    def answer_all(self, request: dict[str, Any], size: int) -> dict[str, Any]:
        """Return an answer for each conversation of a request, until one exceeds a limit of time or memory."""
        answers: list[dict[str, Any]] = []
        for chat, prefixes in request.pop("chats"):
            answers.append(self.answer(request | {"chat": chat, "prefixes": prefixes}, size))
            if answers[-1].get("error") in ("time", "memory"):
                break
        return {"answers": answers}

    def _compile(self, source: str | None) -> None:
        """Compile a template; None is the one before, which is compiled again if it could not be."""
        if source not in (None, self.source):
            self.source, self.template = source, None
        if self.template is None:
            self.template = environment().from_string(self.source or "")

    def _render(self, request: dict[str, Any], size: int) -> dict[str, Any]:
        """Return the text of each prefix, or its length if the first text begins with it, until one does not.

        An error of the first text is that of the request. An error of another text is the last of the texts.
        """
        first, spans = "", []
        texts: list[int | str | dict[str, Any]] = []
        for number, (turns, prompt) in enumerate(request["prefixes"]):
            try:
                text, found = self._text(request, size, turns, prompt, with_spans=request["spans"] and not number)
            except Exception as error:
                if not number or isinstance(error, MemoryError):
                    raise
                texts.append(_failure(error))
                break
            if not number:
                first, spans = text, found
            elif first.startswith(text):
                texts.append(len(text))
            else:
                texts.append(text)
                break
        return {"first": first, "texts": texts, "spans": spans}

    def _text(
        self, request: dict[str, Any], size: int, turns: int, prompt: bool, *, with_spans: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        chat = request["chat"]
        tracker: Any = self.template.environment.extensions[TrackGeneration.identifier]
        tracker.spans, tracker.written = ([] if with_spans else None), 0
        blocks, characters = [], request["characters"] + 20 * size
        for block in self.template.generate(
            messages=list(map(_with_reasoning, chat["messages"][:turns])),
            tools=chat["tools"],
            documents=None,
            add_generation_prompt=prompt,
            strftime_now=strftime_on(chat["date"]),
            **chat["names"],
        ):
            blocks.append(block)
            tracker.written += len(block)
            if tracker.written > characters:
                raise SizeLimit
        return "".join(blocks), tracker.spans or []


def _with_reasoning(message: Any) -> dict[str, Any]:
    """Return a message whose reasoning has all names that templates read; its other fields stay."""
    if not isinstance(message, dict):
        raise TypeError("a message is not a mapping")
    reasoning = next((message[name] for name in REASONING if message.get(name) is not None), None)
    if reasoning is None:
        return dict(message)
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _failure(error: Exception) -> dict[str, Any]:
    if isinstance(error, SizeLimit):
        return {"error": "size", "text": "", "line": None}
    return {"error": _kind_of(error), "text": _text_of(error), "line": getattr(error, "lineno", None)}


def _kind_of(error: Exception) -> str:
    kinds: list[tuple[type[Exception], str]] = [
        (RaisedByTemplate, "raised"),
        (jinja2.TemplateSyntaxError, "syntax"),
        (jinja2.exceptions.SecurityError, "forbidden"),
        (jinja2.UndefinedError, "undefined"),
        (RecursionError, "recursion"),
    ]
    return next((kind for cause, kind in kinds if isinstance(error, cause)), "failed")


def _text_of(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"there is no {error}"
    return str(getattr(error, "message", None) or error) or "there is no reason given"


def _limit_memory(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        size = min(size, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS knows the limit and may refuse to set it
        resource.setrlimit(resource.RLIMIT_AS, (size, hard))


def _stop(number: int, frame: Any) -> None:
    raise TimeLimit


def main(memory: int) -> None:
    """Answer requests until the other side closes the pipe.

    Args:
        memory: address space of this process in bytes; 64 bytes are added for each byte of a conversation.
    """
    signal.signal(signal.SIGPROF, _stop)
    worker, out = Worker(), sys.stdout.buffer
    while len(head := sys.stdin.buffer.read(8)) == 8:
        (size,) = struct.unpack("!Q", head)
        _limit_memory(memory + 64 * size)
        request, started = json.loads(sys.stdin.buffer.read(size)), time.process_time()
        act = worker.answer_all if "chats" in request else worker.answer
        answer = act(request, size) | {"used": time.process_time() - started}
        content = json.dumps(answer).encode()
        out.write(struct.pack("!Q", len(content)) + content)
        out.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
