"""Render conversations with chat templates in a child process, which is killed if a template exceeds its limits.

A template is a program that comes with a model, so it may loop, recurse or make gigabytes of text. The child process
(template_worker.py) limits its own processor time, memory and output; this process limits the time that it waits. A
template that exceeds a limit costs one sample, and after `MAX_OVERRUNS` of them the command ends.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import ModelError

SECONDS = 10.0
"""Processor time that a template may use for a sample."""

PATIENCE = 30.0
"""Seconds that this process waits for an answer in addition to 3 times the processor time: a machine may be busy."""

MEMORY = 1 << 30
"""Address space of the child process in bytes; 64 bytes are added for each byte of the sample."""

CHARACTERS = 10_000_000
"""Length of the text that a template may make of a sample; 20 characters are added for each byte of the sample."""

MAX_OVERRUNS = 5
"""Number of samples on which a template may exceed the limits of time or memory before the command ends."""

MAX_TEMPLATE = 1 << 20
"""Maximum length of a chat template. Long ones take seconds to compile."""


WORKER = Path(__file__).with_name("template_worker.py")
"""Program of the child process."""

Prefix = tuple[int, bool]
"""Number of messages to render, and True to append the beginning of an assistant turn."""


LIMITS = ("time", "memory")
"""Kinds of errors that take long, so that they are counted."""


class RenderError(Exception):
    """A conversation that a template does not render.

    Attributes:
        kind: `raised` by the template itself, `syntax`, `forbidden`, `undefined`, `recursion`, `failed`, or the limit
            that is exceeded: `time`, `memory` or `size`.
    """

    def __init__(self, kind: str, text: str = "", line: int | None = None) -> None:
        self.kind = kind
        self.text, self.line = _one_line(text), line
        super().__init__(self.reason)

    @property
    def reason(self) -> str:
        """Short description of the cause, in one line without control characters."""
        where = f" in line {self.line}" if self.line else ""
        return {
            "raised": f"the chat template raises: {self.text}",
            "syntax": f"the chat template has a syntax error{where}: {self.text}",
            "forbidden": f"the chat template does something that is forbidden: {self.text}",
            "undefined": f"the chat template needs something that is not there: {self.text}",
            "recursion": "the chat template calls itself without end",
            "time": f"the chat template computes for more than {SECONDS:g} s",
            "memory": f"the chat template needs more than {MEMORY >> 20} MiB of memory",
            "size": f"the chat template makes more than {CHARACTERS:,} characters",
        }.get(self.kind, f"the chat template fails: {self.text}")


@dataclass(frozen=True)
class Texts:
    """Texts that a template renders of one conversation.

    Attributes:
        first: the first text.
        others: the other texts in order, each as its length if `first` begins with it. The first that is no length, a
            text or an error, is the last that is rendered.
        spans: (start, end) of the parts of the first text that the template marks as generated.
    """

    first: str
    others: Sequence[int | str | RenderError]
    spans: Sequence[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Conversation:
    """A conversation that a template renders.

    Attributes:
        messages: the messages; tools: the definitions of tools, or None.
        template: the chat template.
        names: special tokens of the tokenizer by the name that templates use.
        date: the day that the template writes when it asks for today's, as YYYY-MM-DD.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Any] | None
    template: str
    names: Mapping[str, Any]
    date: str

    @property
    def content(self) -> dict[str, Any]:
        """Content that is sent to the child process."""
        return {"messages": self.messages, "tools": self.tools, "names": self.names, "date": self.date}


class Budget:
    """Processor time that the rendering of a sample may still use. All renderings of the sample count.

    Args:
        counted: count an overrun, so that a template with too many ends the command.
    """

    def __init__(self, *, counted: bool = True) -> None:
        self.seconds = SECONDS
        self.counted = counted


class Renderer:
    """A child process that renders. It is started when it is needed and ends with this process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()
        self._overruns: Counter[str] = Counter()
        self._template: str | None = None

    def check(self, template: str) -> None:
        """Compile a template.

        Raises:
            RenderError: the template cannot be compiled.
        """
        with self._lock:
            self._ask({"template": template}, Budget())

    def render(
        self, chat: Conversation, prefixes: Sequence[Prefix], budget: Budget, *, with_spans: bool = False
    ) -> Texts:
        """Return the rendered texts, and the spans that the template marks as generated in the first of them.

        Args:
            chat: the conversation.
            prefixes: for each text the number of messages, and whether to append the beginning of an assistant turn.
            budget: processor time of the sample; what is used is taken off.
            with_spans: also return the spans.

        Raises:
            RenderError: the template does not render the first text, or exceeds a limit of time or memory.
            ModelError: the template has exceeded its limits too often.
        """
        request = {"chat": chat.content, "prefixes": prefixes, "spans": with_spans, "template": chat.template}
        with self._lock:
            return _texts(self._ask(request, budget))

    def render_all(
        self, chats: Sequence[tuple[Conversation, Sequence[Prefix]]], *, with_spans: bool
    ) -> list[Texts | RenderError | None]:
        """Render conversations in one exchange, which costs less than one exchange for each.

        Args:
            chats: conversations of one template, each with its prefixes as in `render`.
            with_spans: also return the spans.

        Returns:
            For each conversation the texts, or the error; None if it must be rendered by itself, because another one
            exceeded a limit.
        """
        contents = [(chat.content, prefixes) for chat, prefixes in chats]
        request = {"chats": contents, "spans": with_spans, "template": chats[0][0].template}
        outcomes: list[Texts | RenderError | None] = []
        with self._lock:
            try:
                answers = self._ask(request, Budget())["answers"]
            except RenderError:
                answers = []
        for answer in answers:
            if answer.get("error") in LIMITS:
                break
            outcomes.append(_error(answer) if "error" in answer else _texts(answer))
        return outcomes + [None] * (len(chats) - len(outcomes))

    def _ask(self, request: dict[str, Any], budget: Budget) -> dict[str, Any]:
        if len(request["template"]) > MAX_TEMPLATE:
            raise RenderError("failed", f"it is longer than {MAX_TEMPLATE:,} characters")
        if budget.seconds <= 0:
            raise RenderError("time")
        content = request | {"seconds": budget.seconds, "characters": CHARACTERS}
        if self._alive() and request["template"] == self._template:
            del content["template"]  # the child has it
        try:
            data = json.dumps(content, default=_placeholder).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise RenderError("failed", f"a message cannot be written as JSON: {error}") from None
        started = time.monotonic()
        answer = self._exchange(data, 3 * budget.seconds + PATIENCE)
        budget.seconds -= answer.get("used", time.monotonic() - started)
        self._template = request["template"] if self._alive() else None
        if "error" in answer and "chats" not in request and budget.counted:
            self._count(answer["error"], request["template"])
        if "error" in answer:
            raise _error(answer)
        return answer

    def _count(self, kind: str, template: str) -> None:
        """Count a template that exceeds a limit, and end the command if it does so again and again."""
        if kind not in LIMITS:
            return
        self._overruns[template] += 1
        if self._overruns[template] >= MAX_OVERRUNS:
            raise ModelError(
                f"{RenderError(kind).reason[0].upper()}{RenderError(kind).reason[1:]}, and has exceeded its limits on "
                f"{MAX_OVERRUNS} samples. Give another --chat-template, or remove the longest conversations."
            )

    def _exchange(self, request: bytes, timeout: float) -> dict[str, Any]:
        """Send a request and return the answer. A child that does not answer in time is killed."""
        process = self._start()
        assert process.stdin is not None
        try:
            process.stdin.write(struct.pack("!Q", len(request)) + request)
            process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._receive(time.monotonic() + timeout))
            return answer
        except TimeoutError:
            self.close()
            return {"error": "time"}
        except (OSError, EOFError):
            self.close()
            return {"error": "memory"}
        except BaseException:  # after Ctrl-C the answer is still in the pipe
            self.close()
            raise

    def _receive(self, deadline: float) -> bytes:
        """Return the next answer: its length in 8 bytes comes first."""
        assert self._process is not None and self._process.stdout is not None
        descriptor, data, end = self._process.stdout.fileno(), bytearray(), 8
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        while len(data) < end:
            if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            part = os.read(descriptor, 1 << 20)
            if not part:
                raise EOFError
            data += part
            if end == 8 and len(data) >= 8:
                end = 8 + int(struct.unpack_from("!Q", data)[0])
        return bytes(data[8:])

    def _alive(self) -> bool:
        return self._process is not None and self._owner == os.getpid() and self._process.poll() is None

    def _start(self) -> subprocess.Popen[bytes]:
        if not self._alive():
            self.close()
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", str(WORKER), str(MEMORY)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    process_group=0,  # Ctrl-C is for this process only
                )
            except OSError as error:
                raise ModelError(f"The process that renders chat templates cannot be started: {error}.") from None
            self._owner = os.getpid()
        assert self._process is not None
        return self._process

    def close(self) -> None:
        """End the child process. The next request starts another."""
        process, self._process = self._process, None
        self._template = None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        process.wait()


def _error(answer: dict[str, Any]) -> RenderError:
    return RenderError(answer["error"], answer.get("text", ""), answer.get("line"))


def _texts(answer: dict[str, Any]) -> Texts:
    others = [_error(text) if isinstance(text, dict) else text for text in answer["texts"]]
    return Texts(answer["first"], others, [(start, end) for start, end in answer["spans"]])


def _placeholder(value: Any) -> str:
    return f"<{type(value).__name__}>"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return f"{line[:157]}..." if len(line) > 160 else line.rstrip(".")


RENDERER = Renderer()
"""The renderer of this process."""

atexit.register(RENDERER.close)
