"""The loss does not train on messages, and parts of messages, that flags exclude, with any kind of template."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_tokenizer
from curate.lm.tokens.encode import Encoder, MaskError
from curate.samples import Sample, expand

UNMARKED = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chat(*answers: dict[str, Any]) -> Sample:
    messages: list[dict[str, Any]] = []
    for number, answer in enumerate(answers):
        messages += [{"role": "user", "content": f"Sort b a {number}."}, {"role": "assistant", **answer}]
    return Sample(messages)


def trained(tokenizer: Any, sample: Sample, **options: Any) -> str:
    row = Encoder(tokenizer, max_length=512, **options)(sample)
    return str(tokenizer.decode(row.input_ids[row.target]))


@pytest.fixture(params=["marked", "unmarked"])
def tokenizer(request: pytest.FixtureRequest, options: ModelOptions) -> Any:
    made = load_tokenizer(options)
    if request.param == "unmarked":
        made.chat_template = UNMARKED
    return made


def test_a_turn_that_is_not_trained_on_is_in_the_text_and_not_in_the_mask(tokenizer: Any) -> None:
    plain = chat({"content": "wrong one"}, {"content": "a b"})
    flagged = chat({"content": "wrong one", "train": False}, {"content": "a b"})
    encoder = Encoder(tokenizer, max_length=512)
    assert np.array_equal(encoder(plain).input_ids, encoder(flagged).input_ids)
    assert trained(tokenizer, plain).replace("\n", "") == "wrong one<|im_end|>a b<|im_end|>"
    assert trained(tokenizer, flagged).replace("\n", "") == "a b<|im_end|>"


def test_a_range_that_is_not_trained_on_leaves_the_rest_of_its_message(tokenizer: Any) -> None:
    detail = [{"begin_offset": 2, "end_offset": 6, "train": False}]
    assert trained(tokenizer, chat({"content": "  wrong a b ", "train_detail": detail})).strip().startswith("a b")
    twice = [{"begin_offset": 0, "end_offset": 2, "train": False}]
    typed = chat({"content": "bad <|im_end|> good"}, {"content": "bad c d <|im_end|>", "train_detail": twice})
    text = trained(tokenizer, typed)
    assert text.count("bad") == 1 and "c d <|im_end|><|im_end|>" in text


def test_flags_hold_with_loss_on_all(tokenizer: Any) -> None:
    text = trained(tokenizer, chat({"content": "wrong one", "train": False}, {"content": "a b"}), loss_on="all")
    assert "wrong one" not in text and "Sort b a 0." in text and "a b" in text


def test_a_range_that_the_template_does_not_write_is_an_error(options: ModelOptions) -> None:
    tokenizer = load_tokenizer(options)
    tokenizer.chat_template = UNMARKED.replace("message['content'] | trim", "message['content'] | upper")
    detail = [{"begin_offset": 0, "end_offset": 4, "train": False}]
    flagged = chat({"content": "wrong a b", "train_detail": detail}, {"content": "c d"})
    with pytest.raises(MaskError, match="the chat template leaves out the text"):
        Encoder(tokenizer, max_length=512)(flagged)


def test_a_range_in_an_answer_whose_place_is_not_known_is_an_error(options: ModelOptions) -> None:
    tokenizer = load_tokenizer(options)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% generation %}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}"
        "\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    detail = [{"begin_offset": 0, "end_offset": 4, "train": False}]
    flagged = chat({"content": "wrong a b", "train_detail": detail}, {"content": "c d"})
    assert trained(tokenizer, flagged) == " a b<|im_end|>c d<|im_end|>"
    with pytest.raises(MaskError, match="a part of a message that is not trained on"):
        Encoder(tokenizer, max_length=512, turns="whole")(flagged)


def test_a_conversation_without_a_trained_answer_has_no_target(tokenizer: Any) -> None:
    encoder = Encoder(tokenizer, max_length=512)
    with pytest.raises(MaskError, match="its flags exclude each of its answers") as caught:
        encoder(chat({"content": "wrong", "train": False}, {"content": "bad", "train": False}))
    assert caught.value.reason == "no target tokens"


FORGETFUL = UNMARKED.replace(
    "message['content'] | trim",
    "(message['content'] if loop.last else message['content'].split('</think>')[-1]) | trim",
)
"""A template that writes the reasoning of the last answer only."""


def test_answers_that_are_not_trained_on_are_no_samples_of_their_own(options: ModelOptions) -> None:
    tokenizer = load_tokenizer(options)
    tokenizer.chat_template = FORGETFUL
    sample = chat(
        {"content": "<think>oh</think>wrong one", "train": False},
        {"content": "<think>hm</think>a b"},
        {"content": "c d"},
    )
    encoder = Encoder(tokenizer, max_length=512)
    assert encoder.route(sample).expand
    answers = expand(sample)
    assert [answer.answer for answer in answers] == [3, 5]
    rows = [encoder(answer) for answer in answers]
    assert [tokenizer.decode(row.input_ids[row.target]).strip() for row in rows] == [
        "<think>hm</think>a b<|im_end|>",
        "c d<|im_end|>",
    ]


def test_a_range_holds_in_an_answer_that_is_a_sample_of_its_own(options: ModelOptions) -> None:
    tokenizer = load_tokenizer(options)
    tokenizer.chat_template = FORGETFUL
    detail = [{"begin_offset": 0, "end_offset": 21, "train": False}]
    sample = chat({"content": "<think>hm</think>wrong a b", "train_detail": detail}, {"content": "c d"})
    first, second = (Encoder(tokenizer, max_length=512)(answer) for answer in expand(sample))
    assert tokenizer.decode(first.input_ids[first.target]).strip() == "a b<|im_end|>"
    assert tokenizer.decode(second.input_ids[second.target]).strip() == "c d<|im_end|>"
