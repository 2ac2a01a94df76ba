"""A chat template that reads the clock gets one frozen day, and no other way to render something else each time."""

from __future__ import annotations

from typing import Any

import pytest

from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_tokenizer
from curate.lm.templates import clock
from curate.lm.templates.clock import date_of, freeze_date, reads_clock
from curate.lm.tokens.chat import Chat, render_messages
from curate.lm.tokens.chat_template import ChatTemplate
from curate.lm.tokens.encode import Encoder, MaskError
from curate.lm.tokens.special_tokens import SpecialTokens
from curate.samples import Sample

DATED = (
    "{% if strftime_now is defined %}{% set day = strftime_now('%A %-d %b %Y %H:%M') %}{% else %}{% set day = 'x' %}"
    "{% endif %}On {{ day }}.\n{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
)
CHAT = Sample([{"role": "user", "content": "Which day?"}, {"role": "assistant", "content": "Look up."}])


@pytest.fixture
def tokenizer(tiny: str) -> Any:
    loaded = load_tokenizer(ModelOptions(tiny))
    loaded.chat_template = DATED
    return loaded


def text_of(tokenizer: Any, sample: Sample = CHAT) -> str:
    template = ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens_map, date_of(tokenizer))
    return Chat(SpecialTokens(tokenizer), sample, template).render([(2, False)]).first


def test_the_template_writes_the_frozen_day_at_midnight(tokenizer: Any) -> None:
    freeze_date(tokenizer, "2031-03-07")
    assert text_of(tokenizer).startswith("On Friday 7 Mar 2031 00:00.\n")
    assert render_messages(tokenizer, [dict(m) for m in CHAT.messages]) == text_of(tokenizer)


def test_the_day_of_a_tokenizer_stays_when_the_clock_goes_on(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    del tokenizer._curate_date
    monkeypatch.setattr(clock, "today", lambda: "2030-01-02")
    first = Encoder(tokenizer, max_length=100)(CHAT)
    monkeypatch.setattr(clock, "today", lambda: "2030-01-03")
    assert date_of(tokenizer) == "2030-01-02"
    assert Encoder(tokenizer, max_length=100)(CHAT).input_ids.tolist() == first.input_ids.tolist()
    freeze_date(tokenizer, None)
    assert Encoder(tokenizer, max_length=100)(CHAT).input_ids.tolist() != first.input_ids.tolist()


def test_the_day_is_that_of_the_options(tiny: str) -> None:
    assert date_of(load_tokenizer(ModelOptions(tiny, date="1999-12-31"))) == "1999-12-31"


@pytest.mark.parametrize(
    ("template", "reads"),
    [
        (DATED, True),
        ("{% set f = strftime_now %}{{ f('%Y') }}", True),
        ("{% macro d() %}{{ strftime_now('%d') }}{% endmacro %}{{ d() }}", True),
        ("{# strftime_now('%d') #}{{ 'strftime_now' }}{{ m.strftime_now }}", False),
        ("{% set strftime_now = 'no clock' %}{{ strftime_now }}", False),
        ("{% generation %}{{ strftime_now('%d') }}{% endgeneration %}", True),
        ("{{ strftime_now(", False),
        (None, False),
        ({"default": "{{ 1 }}", "tool_use": "{{ strftime_now('%d') }}"}, True),
        ([{"name": "default", "template": "{{ 1 }}"}], False),
    ],
)
def test_a_template_reads_the_clock_if_its_code_does(template: Any, reads: bool) -> None:
    assert reads_clock(template) is reads


@pytest.mark.parametrize(
    ("template", "cause"),
    [
        ("{{ [1, 2, 3] | random }}", "draws at random"),
        ("{{ lipsum(1) }}", "draws at random"),
        ("{{ messages | map(attribute='role') }}", "writes the address of a generator"),
        ("{{ strftime_now }}", "writes the address of a function"),
    ],
)
def test_a_template_that_renders_something_else_each_time_is_refused(tokenizer: Any, template: str, cause: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(MaskError, match=f"does something that is forbidden: it {cause}.*something else each time"):
        text_of(tokenizer)


def test_a_text_with_an_address_in_it_is_rendered(tokenizer: Any) -> None:
    sample = Sample([{"role": "user", "content": "What is <f at 0x7f>?"}, {"role": "assistant", "content": "A place"}])
    assert "What is <f at 0x7f>?" in text_of(tokenizer, sample)
