"""The date that chat templates write: one frozen day for each tokenizer, in place of the clock.

Many released templates write today's date with `strftime_now`. A run that is stopped on one day and resumed on the next
would then train on other tokens, and nothing would tell. So a template never reads the clock here: it is given the day
of the artifact (`--date`), at midnight. What a template draws at random it cannot use (tokens/template_worker.py).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

import jinja2
from jinja2 import meta

CLOCK = "strftime_now"
"""Name of the function through which a chat template reads the clock. There is no other way."""

MARKS = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")
"""Tags that only transformers knows. They hold no names."""

DATE = "_curate_date"
"""Attribute of a tokenizer that holds its frozen day."""


def reads_clock(template: str | Mapping[str, str] | Iterable[Mapping[str, str]] | None) -> bool:
    """Return whether a chat template, or one of several, reads the clock.

    Args:
        template: a template; or several as name -> template, or as mappings with the key `template`, as in a
            tokenizer_config.json.
    """
    if template is None or isinstance(template, str):
        return _reads_clock(template or "")
    parts = template.values() if isinstance(template, Mapping) else [part.get("template", "") for part in template]
    return any(_reads_clock(str(part)) for part in parts)


@cache
def _reads_clock(template: str) -> bool:
    if CLOCK not in template:
        return False
    plain = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        return CLOCK in meta.find_undeclared_variables(plain.parse(MARKS.sub("", template)))
    except (jinja2.TemplateError, RecursionError):  # the template is refused when it is compiled
        return False


def freeze_date(tokenizer: Any, date: str | None) -> None:
    """Give the chat template of a tokenizer a day.

    Args:
        tokenizer: the tokenizer.
        date: the day as YYYY-MM-DD; None is today.
    """
    setattr(tokenizer, DATE, date or today())


def date_of(tokenizer: Any) -> str:
    """Return the day of a tokenizer's chat template as YYYY-MM-DD. Without one it is today, from now on."""
    if not hasattr(tokenizer, DATE):
        freeze_date(tokenizer, None)
    return str(getattr(tokenizer, DATE))


class _Stopped:
    """A clock that shows the beginning of one day, in place of the class `datetime`."""

    def __init__(self, date: str) -> None:
        self.time = datetime.datetime.fromisoformat(date)

    def now(self, tz: datetime.tzinfo | None = None) -> datetime.datetime:
        """Return midnight of the day."""
        return self.time.replace(tzinfo=tz)


@contextmanager
def on_day(date: str) -> Iterator[None]:
    """Let `apply_chat_template` of transformers render as on a day, YYYY-MM-DD. It takes no function to do so."""
    from transformers.utils import chat_template_utils

    with mock.patch.object(chat_template_utils, "datetime", _Stopped(date)):
        yield


def today() -> str:
    """Return the day of this machine's clock as YYYY-MM-DD."""
    return datetime.date.today().isoformat()
