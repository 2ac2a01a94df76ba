"""The loss trains on the assistant's tokens with every kind of template."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from curate.errors import ModelError
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_tokenizer
from curate.lm.tokens.batch import collate
from curate.lm.tokens.encode import Encoded, Encoder, MaskError, encode_all
from curate.lm.tokens.token_table import TokenTable
from curate.samples import Sample

CHAT = Sample(
    [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Sort b a."},
        {"role": "assistant", "content": "a b"},
        {"role": "user", "content": "Again: d c."},
        {"role": "assistant", "content": "c d"},
    ]
)
UNMARKED = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def trained_text(tokenizer: Any, row: Encoded) -> str:
    return str(tokenizer.decode(row.input_ids[row.target]))


def test_marks_of_the_template_are_the_mask(options: ModelOptions) -> None:
    tokenizer = load_tokenizer(options)
    row = Encoder(tokenizer, max_length=128)(CHAT)
    assert trained_text(tokenizer, row) == "a b<|im_end|>c d<|im_end|>"


def test_without_marks_prefixes_give_the_same_tokens(options: ModelOptions) -> None:
    tokenizer = load_tokenizer(options)
    marked = Encoder(tokenizer, max_length=128)(CHAT)
    tokenizer.chat_template = UNMARKED
    unmarked = Encoder(tokenizer, max_length=128)(CHAT)
    assert np.array_equal(marked.input_ids, unmarked.input_ids)
    assert trained_text(tokenizer, unmarked) == "a b<|im_end|>\nc d<|im_end|>\n"


def test_a_template_that_rewrites_earlier_turns_is_an_error(options: ModelOptions) -> None:
    tokenizer = load_tokenizer(options)
    tokenizer.chat_template = UNMARKED.replace(
        "{{ message['content'] }}", "{% if loop.last %}{{ message['content'] }}{% else %}...{% endif %}"
    )
    with pytest.raises(MaskError, match="does not begin with the prompt that turn 3 has at inference"):
        Encoder(tokenizer, max_length=128, turns="whole")(CHAT)
    answer = replace(CHAT, messages=CHAT.messages[:3], answer=2)
    with pytest.raises(MaskError, match="leaves out the system text of turn 1"):
        Encoder(tokenizer, max_length=128)(answer)


def test_all_tokens_can_be_trained_on(options: ModelOptions) -> None:
    row = Encoder(load_tokenizer(options), max_length=128, loss_on="all")(CHAT)
    assert row.target.all() and row.target_tokens == len(row.input_ids) - 1


def test_plain_text_is_trained_on_whole_and_ended(options: ModelOptions) -> None:
    tokenizer = load_tokenizer(options)
    row = Encoder(tokenizer, max_length=128)(Sample([{"role": "text", "content": "once upon a time"}]))
    assert row.input_ids[-1] == tokenizer.eos_token_id and row.target.all()


def test_tool_calls_reach_the_template_as_mappings_and_the_sample_stays_as_it_was(options: ModelOptions) -> None:
    tokenizer = load_tokenizer(options)
    tokenizer.chat_template = "{% for m in messages %}{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}"
    tokenizer.chat_template += (
        "{% for k, v in m.tool_calls[0].function.arguments.items() %} {{ k }}: {{ v }}{% endfor %}"
    )
    tokenizer.chat_template += "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": 41}'}}
    sample = Sample([{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [call]}])
    row = Encoder(tokenizer, max_length=128)(sample)
    assert trained_text(tokenizer, row) == "f x: 41<|im_end|>"
    assert call["function"]["arguments"] == '{"x": 41}'  # type: ignore[index]


def test_a_sample_without_targets_after_truncation_is_rejected_by_id(options: ModelOptions) -> None:
    rejected: dict[str, str] = {}
    short = Sample([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])
    long = Sample([{"role": "user", "content": "q " * 100}, {"role": "assistant", "content": "a"}])
    rows = list(encode_all([(0, short), (1, long)], Encoder(load_tokenizer(options), max_length=32), rejected))
    assert [position for position, _, _ in rows] == [0]
    assert rejected == {long.sample_id: "no target tokens left after truncation"}


def test_a_table_gives_rows_back_and_pads_them_on_the_right(options: ModelOptions) -> None:
    encoder = Encoder(load_tokenizer(options), max_length=128)
    samples = [Sample([{"role": "user", "content": "q" * n}, {"role": "assistant", "content": "ab"}]) for n in (2, 30)]
    table = TokenTable(encode_all(enumerate(samples), encoder, {}))
    batch = collate([table[0], table[1]], pad_token_id=9)
    for i, sample in enumerate(samples):
        row = encoder(sample)
        n = len(row.input_ids)
        assert batch["input_ids"][i, :n].tolist() == row.input_ids.tolist()
        assert (batch["labels"][i, :n] != -100).tolist() == row.target.tolist()
        assert batch["attention_mask"][i].tolist() == [1] * n + [0] * (batch["input_ids"].shape[1] - n)
        assert (batch["input_ids"][i, n:] == 9).all() and (batch["labels"][i, n:] == -100).all()
    assert table.find(table[1]["input_ids"]) == samples[1].sample_id


def test_an_incomplete_tokenizer_is_an_error_with_a_message(options: ModelOptions, tmp_path: Any) -> None:
    tokenizer = load_tokenizer(options)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "no-template")
    with pytest.raises(ModelError, match=r"has no chat template\. Give --chat-template"):
        load_tokenizer(ModelOptions(str(tmp_path / "no-template")))
    plain = load_tokenizer(ModelOptions(str(tmp_path / "no-template"), chat_template="plain"))
    assert "Assistant: a b" in plain.apply_chat_template(CHAT.messages, tokenize=False)
    tokenizer.pad_token = tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "no-padding")
    with pytest.raises(ModelError, match=r"neither a padding token nor an end token\. Give --pad-token"):
        load_tokenizer(ModelOptions(str(tmp_path / "no-padding"), chat_template="chatml"))
    with pytest.raises(ModelError, match="not in the vocabulary"):
        load_tokenizer(replace(options, pad_token="<nope>"))
    with pytest.raises(ModelError, match="no chat template 'nope'"):
        load_tokenizer(replace(options, chat_template="nope"))
    with pytest.raises(ModelError, match="Cannot load a tokenizer from"):
        load_tokenizer(ModelOptions(str(tmp_path)))
