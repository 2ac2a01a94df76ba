"""A chat template renders as in transformers, within limits of time and size, and the cause of a failure is named."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from curate.errors import ModelError
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_tokenizer
from curate.lm.tokens import rendering
from curate.lm.tokens.chat import check_limits, render_messages
from curate.lm.tokens.encode import TOO_LONG, Encoder, MaskError, encode_all
from curate.lm.tokens.masks import overlapping
from curate.lm.tokens.rendering import Budget, Conversation, Renderer, RenderError, Texts
from curate.samples import Sample

MARKED = (
    "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ eos_token }}"
    "{% endgeneration %}{% else %}{{ m.content | trim }}{% endif %}\n{% endfor %}"
)
UNMARKED = (
    "{%- if tools %}{{ tools | tojson(indent=2) }}{% endif %}{% set ns = namespace(n=0) %}{% for m in messages %}"
    "{% set ns.n = ns.n + 1 %}{{ ns.n }} {{ m.role }}\n{{ m.content }}{{ m.reasoning_content or m.thinking }}\n"
    "{% if loop.index0 > 5 %}{% break %}{% endif %}{% endfor %}{{ dict(a=1) }}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)
MACRO = "{% macro say(m) %}[{{ m.role }}]{{ m.content }}{% endmacro %}{% for m in messages %}{{ say(m) }}{% endfor %}"
texts = st.text(st.sampled_from([*"ab \n\t<>&'\"\\é😀\u2028", "\ud800"]), max_size=6)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": texts}, optional={"thinking": texts}
    ),
    min_size=1,
    max_size=8,
)
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a * b %}{% endfor %}{% endfor %}"
SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


def sample_of(turns: int, text: str = "a b") -> Sample:
    return Sample([{"role": ("user", "assistant")[i % 2], "content": f"{text} {i}"} for i in range(turns)])


def chat_of(template: str, turns: list[dict[str, Any]] | None = None, tools: Any = None) -> Conversation:
    return Conversation(
        turns or [{"role": "user", "content": "q"}], tools, template, {"eos_token": "</s>"}, "2026-11-29"
    )


@pytest.fixture
def renderer() -> Any:
    made = Renderer()
    yield made
    made.close()


# As in transformers


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(messages, st.booleans(), st.sampled_from([None, [{"type": "function", "function": {"name": "é"}}]]))
def test_texts_and_spans_are_those_of_transformers(turns: list[dict[str, Any]], prompt: bool, tools: Any) -> None:
    for template in (MARKED, UNMARKED, MACRO):
        marks = template is MARKED
        wanted, spans = render_jinja_template(
            conversations=[turns],
            tools=tools,
            chat_template=template,
            return_assistant_tokens_mask=marks,
            add_generation_prompt=prompt,
            eos_token="</s>",
        )
        found = rendering.RENDERER.render(
            chat_of(template, turns, tools), [(len(turns), prompt)], Budget(), with_spans=marks
        )
        assert (found.first, found.spans) == (wanted[0], spans[0] if marks else [])


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW)
@given(messages)
def test_marks_give_the_tokens_that_overlap_the_spans_of_transformers(tiny: str, turns: list[dict[str, Any]]) -> None:
    tokenizer = load_tokenizer(ModelOptions(tiny))
    turns = [{"role": m["role"], "content": plain(m["content"]) + "."} for m in turns]
    assume(any(m["role"] == "assistant" for m in turns))
    tokenizer.chat_template = MARKED
    (text,), (spans,) = render_jinja_template(
        conversations=[turns], chat_template=MARKED, return_assistant_tokens_mask=True, eos_token=tokenizer.eos_token
    )
    out = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    row = Encoder(tokenizer, max_length=10**6, turns="whole")(Sample(turns))
    assert row.input_ids.tolist() == out["input_ids"]
    assert row.target.tolist() == [any(s < b and a < e for s, e in spans) for a, b in out["offset_mapping"]]


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW)
@given(messages)
def test_prefixes_give_the_mask_of_rendering_every_prefix(tiny: str, turns: list[dict[str, Any]]) -> None:
    tokenizer = load_tokenizer(ModelOptions(tiny))
    turns = [{"role": m["role"], "content": plain(m["content"], "\ud800") + "."} for m in turns]
    unmarked = UNMARKED.replace("loop.index0 > 5", "loop.index0 > 99").replace("{{ dict(a=1) }}", "")
    for template in (MACRO, unmarked):
        template = template.replace(
            "{{ m.content }}", "{{ m.content }}{% if m.role == 'assistant' %}<|im_end|>{% endif %}"
        )
        tokenizer.chat_template = template
        whole = slowly(template, turns)
        first = whole.index(turns[0]["content"]) if "macro" in template else len("1 assistant")
        spans = [
            (
                len(slowly(template, turns[:i], prompt=True)) if i else first,
                len(slowly(template, turns[: i + 1])),
            )
            for i, m in enumerate(turns)
            if m["role"] == "assistant"
        ]
        try:
            row = Encoder(tokenizer, max_length=10**6, turns="whole")(Sample(turns))
        except MaskError:
            assert template.startswith("{%- if tools %}")
            continue
        tokens = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        assert row.target.tolist() == [any(s < b and a < e for s, e in spans) for a, b in tokens]


def plain(text: str, without: str = "\ud800<>") -> str:
    """Return a text without the characters of special tokens, and without a part of a character."""
    return "".join(c for c in text if c not in without)


def slowly(template: str, turns: list[dict[str, Any]], prompt: bool = False) -> str:
    (text,), _ = render_jinja_template(conversations=[turns], chat_template=template, add_generation_prompt=prompt)
    return str(text)


pairs = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)).map(lambda p: (min(p), max(p))), max_size=6)


@settings(max_examples=300, deadline=None)
@given(pairs, pairs)
def test_masks_in_linear_time_are_those_of_the_definition(spans: list[Any], offsets: list[Any]) -> None:
    ascending = sorted(offsets)
    for tokens in (offsets, [pair for n, pair in enumerate(ascending) if not n or pair[1] >= ascending[n - 1][1]]):
        wanted = [any(s < b and a < e for s, e in spans) for a, b in tokens]
        assert overlapping(spans, tokens, 20).tolist() == wanted
        assert overlapping(spans * 33, tokens, 20).tolist() == wanted
        assert overlapping([], tokens, 20).tolist() == [False] * len(tokens)


# Time


def test_the_time_of_a_conversation_is_linear_in_its_turns(tiny: str) -> None:
    encoder = Encoder(load_tokenizer(ModelOptions(tiny)), max_length=64)

    def seconds(turns: int) -> float:
        started = time.process_time()
        encoder(sample_of(turns))
        return time.process_time() - started

    short, long = (min(seconds(turns) for _ in range(3)) for turns in (2_000, 16_000))
    assert long < 24 * short, "8 times the turns: linear is 8 times the time, quadratic is 64 times"


def test_a_long_conversation_without_generation_marks_is_rejected_with_the_reason(tiny: str) -> None:
    tokenizer = load_tokenizer(ModelOptions(tiny))
    tokenizer.chat_template = MACRO
    rejected: dict[str, str] = {}
    long = sample_of(20_000)
    rows = list(encode_all(enumerate([sample_of(2), long]), Encoder(tokenizer, max_length=64), rejected))
    assert len(rows) == 1 and rejected == {long.sample_id: TOO_LONG}
    assert len(Encoder(tokenizer, max_length=64, loss_on="all")(long).input_ids) == 64


# Limits


@pytest.mark.parametrize(
    ("template", "kind"),
    [
        (ENDLESS, "time"),
        ("{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}", "time"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{{ 'x' * 999 }}{% endfor %}{% endfor %}", "size"),
        ("{% set x = [1] * 999999999 %}", "memory"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_a_template_that_goes_on_costs_one_sample(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch, template: str, kind: str
) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 1.0)
    monkeypatch.setattr(rendering, "CHARACTERS", 1_000_000)
    started = time.monotonic()
    with pytest.raises(RenderError) as caught:
        renderer.render(chat_of(template), [(1, False)], Budget())
    assert caught.value.kind == kind
    assert time.monotonic() - started < 30
    assert renderer.render(chat_of(MACRO), [(1, False)], Budget()).first == "[user]q"


def test_all_renderings_of_a_sample_share_its_time(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 0.5)
    some = ENDLESS.replace("range(99999)", "range(700)")
    budget, chat = Budget(), chat_of(some)
    with pytest.raises(RenderError, match=r"more than 0\.5 s"):
        for _ in range(100):
            renderer.render(chat, [(1, False)], budget)


def test_a_child_that_does_not_answer_or_ends_is_replaced(
    renderer: Renderer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rendering, "PATIENCE", 0.1)
    for program, kind in (("import time; time.sleep(60)", "time"), ("import sys; sys.exit(3)", "memory")):
        (tmp_path / "worker.py").write_text(program)
        monkeypatch.setattr(rendering, "WORKER", tmp_path / "worker.py")
        monkeypatch.setattr(rendering, "SECONDS", 0.1)
        with pytest.raises(RenderError) as caught:
            renderer.render(chat_of(MACRO), [(1, False)], Budget())
        assert caught.value.kind == kind
        assert not renderer._alive()
    monkeypatch.undo()
    assert renderer.render(chat_of(MACRO), [(1, False)], Budget()).first == "[user]q"


def test_a_template_that_goes_on_for_every_sample_ends_the_command(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 0.2)
    tokenizer = load_tokenizer(ModelOptions(tiny))
    tokenizer.chat_template = ENDLESS
    rejected: dict[str, str] = {}
    samples = enumerate(sample_of(2, str(i)) for i in range(1000))
    with pytest.raises(ModelError, match=r"on 5 samples\. Give another --chat-template"):
        list(encode_all(samples, Encoder(tokenizer, max_length=64), rejected))
    assert set(rejected.values()) == {"the chat template computes for more than 0.2 s"} and len(rejected) == 4


def test_the_child_ends_with_its_owner(renderer: Renderer) -> None:
    renderer.render(chat_of(MACRO), [(1, False)], Budget())
    process = renderer._process
    assert process is not None and process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=20) == 0


def test_other_code_renders_only_what_is_within_the_limits(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 0.2)
    tokenizer = load_tokenizer(ModelOptions(tiny))
    messages = [{"role": "user", "content": "q"}]
    check_limits(tokenizer, messages, prompt=True)
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    check_limits(tokenizer, messages, prompt=True)
    with pytest.raises(ModelError, match="Cannot render a question and its answer: the chat template raises: no"):
        render_messages(tokenizer, messages)
    tokenizer.chat_template = ENDLESS
    with pytest.raises(ModelError, match="computes for more than"):
        check_limits(tokenizer, messages, prompt=True)


def test_samples_that_are_rendered_together_are_what_each_is_alone(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 0.5)
    encoder = Encoder(load_tokenizer(ModelOptions(tiny)), max_length=64)
    encoder.tokenizer.chat_template = MARKED.replace(
        "{% for", "{% if 'loop' in messages[0].content %}" + ENDLESS + "{% endif %}{% if 'no' in messages[0].content %}"
        "{{ raise_exception('never') }}{% endif %}{% for", 1
    )  # fmt: skip
    kinds = ["a", "no", "a <|im_end|>", "loop", "b", "loop", "no", "c"]
    samples = [sample_of(4, f"{kind} {i}") for i, kind in enumerate(kinds)]
    samples += [Sample([{"role": "text", "content": "plain"}]), Sample(samples[0].messages, tools=["no schema"])]
    for sample, found in zip(samples, list(encoder.batch(samples)), strict=True):
        try:
            wanted: Any = encoder(sample)
        except MaskError as error:
            assert isinstance(found, MaskError) and found.reason == error.reason
        else:
            assert not isinstance(found, MaskError)
            assert np.array_equal(found.input_ids, wanted.input_ids) and np.array_equal(found.target, wanted.target)


def test_prefixes_are_found_by_a_new_child_too(renderer: Renderer) -> None:
    chat = chat_of(MACRO, [{"role": "user", "content": "q"}] * 3)
    wanted = Texts("[user]q[user]q[user]q", [7, 14], [])
    assert renderer.render(chat, [(3, False), (1, False), (2, False)], Budget()) == wanted
    renderer.close()
    assert renderer.render(chat, [(3, False), (1, False), (2, False)], Budget()) == wanted


# Reasons


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no\\x1b[31m system\\nturn') }}", r"raises: no\\x1b\[31m system turn"),
        ("{{ messages.__class__ }}{{ ''.__class__.__mro__ }}", "forbidden: access to attribute '__class__'"),
        ("{% set ns = namespace(_x=1) %}", "forbidden"),
        ("{{ nothing.at.all }}", "not there: 'nothing' is undefined"),
        ("{{ 1 / 0 }}", "fails: division by zero"),
        ("\n{% for m in messages %}", "syntax error in line 2: Unexpected end of template"),
        ("{{ 'a' | no_such_filter }}", "syntax error in line 1: No filter named"),
    ],
)
def test_the_reason_is_told_in_one_line(renderer: Renderer, template: str, reason: str) -> None:
    with pytest.raises(RenderError, match=reason) as caught:
        renderer.render(chat_of(template), [(1, False)], Budget())
    assert caught.value.reason.isprintable() and len(caught.value.reason) < 300


def test_a_wrong_template_is_an_error_of_the_model(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "wrong.jinja").write_text("{% for m in messages %}{{ m }")
    (tmp_path / "long.jinja").write_text("x" * (rendering.MAX_TEMPLATE + 1))
    for name, reason in (("wrong", "syntax error in line 1"), ("long", "longer than")):
        with pytest.raises(ModelError, match=f"Cannot use the tokenizer of .*{reason}.*Give --chat-template"):
            load_tokenizer(ModelOptions(tiny, chat_template=str(tmp_path / f"{name}.jinja")))


def test_what_is_not_json_reaches_the_template_as_the_name_of_its_type(renderer: Renderer) -> None:
    chat = chat_of("{{ messages[0].content }}", [{"role": "user", "content": Path("x")}])
    assert renderer.render(chat, [(1, False)], Budget()).first == f"<{type(Path('x')).__name__}>"
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RenderError, match="cannot be written as JSON"):
        renderer.render(chat_of(MACRO, [{"role": "user", "content": deep}]), [(1, False)], Budget())


def test_a_forked_process_has_a_child_of_its_own(renderer: Renderer) -> None:
    renderer.render(chat_of(MACRO), [(1, False)], Budget())
    process = renderer._process
    renderer._owner = os.getpid() + 1  # as after a fork
    assert renderer.render(chat_of(MACRO), [(1, False)], Budget()).first == "[user]q"
    assert renderer._process is not process and process is not None and process.poll() is None
    process.kill()
    process.communicate()
