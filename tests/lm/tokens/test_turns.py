"""Every answer is trained on after the prompt that it has at inference, and nothing of a conversation is lost."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest

from curate.errors import DataError
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_tokenizer
from curate.lm.templates.named import TEMPLATES
from curate.lm.tokens.encode import SEVERAL, TOO_LONG, Encoder, MaskError
from curate.lm.tokens.turns.continuation import Continuation, find_continuation
from curate.samples import Sample

TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
END = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CHATML = "{% for m in messages %}" + TURN + "{% endfor %}" + END
FORGETFUL = (  # writes reasoning in the last turn only, as many thinking models do
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}"
    "<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}" + END
)
OPENING = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
SYSTEM_LATE = (  # writes the system text only before a last user turn
    "{% set ns = namespace(system='') %}{% for m in messages %}"
    "{% if m.role == 'system' %}{% set ns.system = m.content %}"
    "{% elif m.role == 'user' %}<|im_start|>{% if loop.last %}{{ ns.system }}\n{% endif %}{{ m.content }}<|im_start|>"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)
CALLS = CHATML.replace(
    "{{ m.content }}",
    "{{ m.content }}{% for c in m.tool_calls or [] %}<call>{{ c.function.name }} {{ ARGUMENTS }}</call>{% endfor %}",
).replace("{% for m", "{{ tools | tojson if tools else '' }}{% for m", 1)
CALL = {"id": "q1w2e3r4t", "type": "function", "function": {"name": "tide", "arguments": {"port": 'Le "Havre"'}}}
TOOL = {"type": "function", "function": {"name": "tide", "description": "Height of the tide", "parameters": {}}}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


TWO = Sample([user("Name a sea."), answer("The Baltic."), user("One more?"), answer("The Aral.")])
THOUGHTS = Sample(
    [
        user("Two and two?"),
        answer("Four.", reasoning_content="twice two"),
        user("Three and three?"),
        answer("Six.", reasoning_content="twice three"),
    ]
)
TOOLS = Sample(
    [user("Tide?"), answer(None, tool_calls=[CALL]), {"role": "tool", "content": "half a metre"}, answer("It is low.")],
    tools=[TOOL],
)


def encoder_of(tiny: str, template: str, **options: Any) -> Encoder:
    tokenizer = load_tokenizer(ModelOptions(tiny))
    tokenizer.chat_template = template
    return Encoder(tokenizer, max_length=10**6, **options)


def expanded(sample: Sample) -> list[Sample]:
    turns = [turn for turn, message in enumerate(sample.messages) if message["role"] == "assistant"]
    return [replace(sample, messages=sample.messages[: turn + 1], answer=turn) for turn in turns]


def trained(encoder: Encoder, sample: Sample) -> str:
    row = encoder(sample)
    return str(encoder.tokenizer.decode(row.input_ids[row.target]))


def answers(encoder: Encoder, sample: Sample) -> list[str]:
    """Return the trained text of each answer, after a check that its prompt is that of inference."""
    found = []
    for part in expanded(sample):
        row = encoder(part)
        assert part.answer is not None
        prompt = encoder.tokenizer.apply_chat_template(
            list(part.messages[: part.answer]), tools=part.tools, add_generation_prompt=True, return_dict=False
        )
        assert row.input_ids[: len(prompt)].tolist() == prompt
        assert row.target.tolist() == [False] * len(prompt) + [True] * (len(row.target) - len(prompt))
        found.append(str(encoder.tokenizer.decode(row.input_ids[row.target])))
    return found


# Routes


def test_a_conversation_stays_whole_where_each_answer_has_its_prompt(tiny: str) -> None:
    encoder = encoder_of(tiny, CHATML)
    route = encoder.route(TWO)
    assert not route.expand and route.reason == "every answer has the prompt that it has at inference, by prefixes"
    assert trained(encoder, TWO) == "The Baltic.<|im_end|>\nThe Aral.<|im_end|>\n"
    assert "".join(answers(encoder, TWO)) == trained(encoder, TWO)


@pytest.mark.parametrize("marks", [False, True])
def test_answers_are_expanded_where_a_template_rewrites_earlier_turns(tiny: str, marks: bool) -> None:
    template = FORGETFUL
    if marks:
        template = FORGETFUL.replace(
            "{% if m.role == 'assistant' and loop.last %}",
            "{% generation %}{% if m.role == 'assistant' and loop.last %}",
        )
        template = template.replace("<|im_end|>\n{% endfor %}", "<|im_end|>\n{% endgeneration %}{% endfor %}")
    encoder = encoder_of(tiny, template)
    route = encoder.route(THOUGHTS)
    assert route.expand and route.reason == "the chat template renders turn 2 differently when more turns follow"
    assert answers(encoder, THOUGHTS) == [
        "<think>\ntwice two\n</think>\n\nFour.<|im_end|>\n",
        "<think>\ntwice three\n</think>\n\nSix.<|im_end|>\n",
    ]
    with pytest.raises(
        MaskError, match="each of its 2 answers must be a sample of its own: the chat template renders"
    ) as caught:
        encoder(THOUGHTS)
    assert caught.value.reason == SEVERAL


def test_a_forced_route_is_taken_or_refused(tiny: str) -> None:
    assert encoder_of(tiny, CHATML, turns="expand").route(TWO).expand
    whole = encoder_of(tiny, FORGETFUL, turns="whole")
    assert not whole.route(THOUGHTS).expand
    with pytest.raises(
        MaskError, match="renders turn 2 differently when more turns follow, so assistant tokens cannot"
    ):
        whole(THOUGHTS)
    with pytest.raises(DataError, match="--turns expand trains on one answer at a time"):
        encoder_of(tiny, CHATML, turns="expand", loss_on="all")


def test_routes_and_encodings_of_a_batch_are_those_of_each_sample(tiny: str) -> None:
    encoder = encoder_of(tiny, FORGETFUL)
    text = Sample([{"role": "text", "content": "plain"}])
    samples = [TWO, THOUGHTS, text, Sample(TWO.messages[:2]), Sample([user("q <|im_end|>"), answer("a")])]
    routes = encoder.routes(samples)
    assert [route.expand for route in routes if not isinstance(route, MaskError)] == [True, True, False, False, False]
    for sample, found in zip(samples, encoder.batch(samples), strict=True):
        if isinstance(found, MaskError):
            with pytest.raises(MaskError, match="must be a sample of its own"):
                encoder(sample)
        else:
            assert found.input_ids.tolist() == encoder(sample).input_ids.tolist()


# Prompts that open a thought


def test_an_answer_closes_the_thought_that_its_prompt_opens(tiny: str) -> None:
    encoder = encoder_of(tiny, OPENING)
    assert encoder.route(TWO).expand
    assert answers(encoder, TWO) == [
        "\n</think>\n\nThe Baltic.<|im_end|>\n",
        "\n</think>\n\nThe Aral.<|im_end|>\n",
    ]
    assert answers(encoder, THOUGHTS)[1] == "twice three\n</think>\n\nSix.<|im_end|>\n"


@pytest.mark.parametrize(
    ("prompt", "whole", "wanted"),
    [
        ("<a>q<b>", "<a>q<b>yes", "yes"),
        ("<a>q<b><think>\n", "<a>q<b><think>\nso\n</think>yes", "so\n</think>yes"),
        ("<a>q<b><think>\n", "<a>q<b><think></think>yes", "</think>yes"),
        ("<a>q<b><think>\n", "<a>q<b></think>yes", "</think>yes"),
        ("<a>q<b><think>\n\n</think>\n\n", "<a>q<b>yes", "yes"),
        ("<a>q<b><think></think>", "<a>q<b><think>\n\n</think>\n\nyes", "yes"),
        ("<a>q<b><think></think>", "<a>q<b><think>so</think>yes", None),
        ("<a>q\n<b>", "<a>q <b>\n yes", "\n yes"),
        ("<s>system q<b>", "q<b>yes", "yes"),
        ("<a>other<b>", "<a>q<b>yes", None),
    ],
)
def test_what_continues_a_prompt(prompt: str, whole: str, wanted: str | None) -> None:
    found = find_continuation(prompt, whole, "q", lambda at: "yes" in whole[at:])
    assert (None if found is None else whole[found.at :]) == wanted
    assert found is None or not found.closing


def test_the_end_of_a_thought_that_a_template_leaves_out_is_known() -> None:
    for tag, closing in (("<think>\n", "\n</think>\n\n"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>")):
        assert find_continuation(f"q{tag}", "qyes", "q", lambda at: True) == Continuation(1, closing)


# Left out


def test_what_a_template_leaves_out_is_named(tiny: str) -> None:
    late = Sample([{"role": "system", "content": "Be exact."}, *TWO.messages])
    dropping = CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
    for template, sample, left_out in (
        (CHATML, TOOLS, "the tool calls of turn 2"),
        (CHATML, Sample(TWO.messages, tools=[TOOL]), "the tool definitions"),
        (CHATML, THOUGHTS, "the reasoning of turn 2"),
        (CHATML, Sample([user("q"), answer("Four.", thinking="twice two")]), "the reasoning of turn 2"),
        (dropping, late, "the system text of turn 1"),
        (CHATML.replace("{{ m.content }}", "{{ m.content[:3] }}"), TWO, "the text of turn 1"),
    ):
        with pytest.raises(MaskError, match=f"leaves out {left_out}. Give --chat-template thinking") as caught:
            encoder_of(tiny, template)(sample)
        assert caught.value.reason == f"the chat template leaves out {left_out.split(' of turn')[0]}"
    with pytest.raises(MaskError, match="leaves out the system text of turn 1"):
        encoder_of(tiny, SYSTEM_LATE, loss_on="all")(late)


def test_a_system_text_that_is_only_in_the_prompt_is_kept(tiny: str) -> None:
    encoder = encoder_of(tiny, SYSTEM_LATE)
    sample = Sample([{"role": "system", "content": "Be exact."}, *TWO.messages])
    assert encoder.route(sample).expand
    assert answers(encoder, sample) == ["The Baltic.<|im_end|>", "The Aral.<|im_end|>"]
    row = encoder(expanded(sample)[1])
    assert "Be exact." in encoder.tokenizer.decode(row.input_ids)


def test_an_empty_answer_is_refused_and_trimmed_text_is_not(tiny: str) -> None:
    for empty in ("", " \n"):
        with pytest.raises(MaskError, match="the answer in turn 2 is empty"):
            encoder_of(tiny, CHATML)(Sample([user("q"), answer(empty)]))
    trimming = encoder_of(tiny, CHATML.replace("m.content", "m.content | trim"))
    assert trained(trimming, Sample([user(" q\n"), answer("\n a ")])) == "a<|im_end|>\n"


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_templates_that_come_along_lose_nothing(tiny: str, name: str) -> None:
    template = files("curate.lm").joinpath(f"templates/{name}.jinja").read_text(encoding="utf-8")
    encoder = encoder_of(tiny, template)
    mixed = Sample(
        [
            {"role": "system", "content": "Be exact."},
            user("Tide?"),
            answer("I look.", reasoning="a port is named", tool_calls=[CALL]),
            {"role": "tool", "content": "half a metre"},
            answer("It is low."),
        ],
        tools=[TOOL],
    )
    for sample in (TWO, TOOLS, mixed, THOUGHTS):
        parts = expanded(sample) if encoder.route(sample).expand else [sample]
        text = "".join(trained(encoder, part) for part in parts)
        for message in sample.messages:
            if message["role"] == "assistant":
                assert (message["content"] or "") in text
                assert (message.get("reasoning_content") or message.get("reasoning") or "") in text
                if message.get("tool_calls"):
                    assert json.dumps(CALL["function"]) in text  # type: ignore[index]
            else:
                assert message["content"] not in text


# Tools


@pytest.mark.parametrize(
    ("written", "form"),
    [("c.function.arguments | tojson", dict), ("'' + c.function.arguments", str), ("c.function.arguments", str)],
)
def test_arguments_of_calls_have_the_form_that_the_template_takes(tiny: str, written: str, form: type) -> None:
    encoder = encoder_of(tiny, CALLS.replace("ARGUMENTS", written))
    for arguments in (CALL["function"]["arguments"], json.dumps(CALL["function"]["arguments"])):  # type: ignore[index]
        call = CALL | {"function": {"name": "tide", "arguments": arguments}}
        sample = Sample([TOOLS.messages[0], answer(None, tool_calls=[call]), *TOOLS.messages[2:]], tools=[TOOL])
        assert '<call>tide {"port": "Le \\"Havre\\""}</call><|im_end|>' in trained(encoder, sample)
        assert call["function"]["arguments"] is arguments  # type: ignore[index]
    assert encoder._template(TOOLS).takes_argument_text == (form is str)


def test_a_template_that_takes_parts_gets_parts(tiny: str) -> None:
    parts = CHATML.replace("{{ m.content }}", "{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}")
    assert trained(encoder_of(tiny, parts), TWO) == trained(encoder_of(tiny, CHATML), TWO)


# Ends


def test_an_answer_without_an_end_gets_the_tokenizers(
    tiny: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("curate"), "propagate", True)
    endless = CHATML.replace("<|im_end|>\n", "{% if m.role != 'assistant' %}<|im_end|>{% endif %}\n")
    encoder = encoder_of(tiny, endless)
    assert encoder.route(TWO).reason == "the chat template writes no end token after an answer"
    assert answers(encoder, TWO) == ["The Baltic.<|im_end|>", "The Aral.<|im_end|>"]
    assert sum("no end token after an answer" in line for line in caplog.messages) == 1
    whole = encoder_of(tiny, endless, turns="whole")
    assert trained(whole, TWO) == "The Baltic.<|im_end|>The Aral.<|im_end|>"
    whole.tokenizer.eos_token = None
    without = Encoder(whole.tokenizer, max_length=99)
    with pytest.raises(MaskError, match="no end token after an answer, and the tokenizer has none"):
        without(Sample(TWO.messages[:2]))


def test_markers_that_are_no_tokens_are_reported_once(
    tiny: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("curate"), "propagate", True)
    strange = CHATML.replace("<|im_start|>", "<|turn_start|>").replace("<|im_end|>", "<|turn_end|>")
    encoder = encoder_of(tiny, strange)
    for sample in expanded(TWO):
        assert trained(encoder, sample).endswith("<|turn_end|>\n<|im_end|>")
    (line,) = [line for line in caplog.messages if "no tokens of this tokenizer" in line]
    assert "<|turn_start|> (" in line and "<|turn_end|> (" in line


def test_what_a_template_begins_after_the_last_answer_is_not_trained_on(tiny: str) -> None:
    reopening = CHATML.replace("{% if add_generation_prompt %}", "{% if messages[-1].role != 'tool' %}")
    encoder = encoder_of(tiny, reopening)
    for sample in expanded(TWO):
        assert trained(encoder, sample).rstrip("\n").endswith("<|im_end|>")
    assert trained(encoder, Sample(TWO.messages[:2])).rstrip("\n") == "The Baltic.<|im_end|>"


# Masks


def test_a_system_text_of_the_template_is_not_trained_on(tiny: str) -> None:
    own = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}" + CHATML
    first = Sample([answer("Welcome."), *TWO.messages[:2]])
    assert trained(encoder_of(tiny, own), first) == "Welcome.<|im_end|>\nThe Baltic.<|im_end|>\n"
    assert trained(encoder_of(tiny, own), Sample([answer("Welcome.")])) == "Welcome.<|im_end|>\n"


@pytest.mark.parametrize("composing", [False, True])
@pytest.mark.parametrize("last", ["a 🦊", "日本", "cafe\u0301", "각"])
def test_the_mask_has_the_whole_answer_and_nothing_after_it(tiny: str, last: str, composing: bool) -> None:
    from tokenizers import normalizers

    content = CHATML.replace(
        "{{ m.content }}",
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}"
        "{% endif %}",
    )
    encoder = encoder_of(tiny, content)
    if composing:
        encoder.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    for marks in (content, CHATML):
        encoder.tokenizer.chat_template = marks
        sample = Sample([user("say"), answer(last), user("again"), answer("ok")])
        end = "" if marks is content else "<|im_end|>\n"
        wanted = encoder.tokenizer.decode(encoder.tokenizer(last, add_special_tokens=False)["input_ids"])
        assert trained(encoder, sample) == f"{wanted}{end}ok{end}"


def test_a_token_is_not_made_of_a_prompt_and_its_answer(tiny: str) -> None:
    spaced = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    spaced += "{% if add_generation_prompt %}assistant: {% endif %}"
    encoder = encoder_of(tiny, spaced)
    assert answers(encoder, TWO)[0] == "The Baltic.<|im_end|>"


def test_a_conversation_of_very_many_turns_is_refused_before_it_is_rendered(tiny: str) -> None:
    long = Sample([user("q") if turn % 2 == 0 else answer("a") for turn in range(200_000)])
    for turns in ("auto", "expand"):
        with pytest.raises(
            MaskError, match=r"200,000 turns .* takes too long to render once for each answer"
        ) as caught:
            encoder_of(tiny, CHATML, turns=turns).route(long)
        assert caught.value.reason == TOO_LONG


def test_a_header_inside_the_marks_is_not_trained_on(tiny: str) -> None:
    headed = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}<|im_start|>assistant\n{{ m.content }}"
        "<|im_end|>{% endgeneration %}{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endif %}\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    assert trained(encoder_of(tiny, headed), Sample(TWO.messages[:2])) == "The Baltic.<|im_end|>"


def test_an_end_that_is_written_before_the_next_turn_is_trained_on_and_not_doubled(tiny: str) -> None:
    late = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% if not loop.last %}<|im_end|>\n{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|im_end|>\n<|im_start|>assistant\n{% endif %}"
    )
    encoder = encoder_of(tiny, late)
    row = encoder(Sample([user("Which sea?"), answer("The Baltic."), user("And")]))
    text = encoder.tokenizer.decode(row.input_ids)
    assert text.count("The Baltic.<|im_end|>\n") == 1
    assert encoder.tokenizer.decode(row.input_ids[row.target]) == "The Baltic.<|im_end|>"


def test_white_space_between_a_prompt_and_the_mark_is_trained_on(tiny: str) -> None:
    spaced = (
        "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>"
        "{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    last = Sample(TWO.messages[:2], answer=1)
    assert trained(encoder_of(tiny, spaced), last) == " The Baltic.<|im_end|>"
