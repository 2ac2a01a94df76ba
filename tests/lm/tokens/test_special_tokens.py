"""Only the chat template adds special tokens; special tokens in the text of a message are encoded as text."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_tokenizer
from curate.lm.tokens.chat import SPECIAL_TOKENS_IN_TEXT, MaskError
from curate.lm.tokens.encode import Encoder, encode_all
from curate.samples import Sample
from tests.support.paths import SHARED

UNMARKED = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMING = UNMARKED.replace("message['content']", "message['content'] | trim")
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}"
    " {% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
)
SPECIAL = ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<|pad|>"]
PARTS = ["<|im_", "end|>", "|>", "<", ">", "<|", "</", "s>", "<|im\u200b_end|>", "＜|im_end|＞", "<|IM_END|>", "<0x0A>"]
texts = st.lists(
    st.sampled_from([*SPECIAL, *PARTS, " ", "\n", "a b", "é", "日本", "😀", "\u0301"]), min_size=1, max_size=6
).map("".join)
chats = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)
SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


def sample_of(chat: list[tuple[str, str]]) -> Sample:
    pairs = [[{"role": "user", "content": q}, {"role": "assistant", "content": a + "."}] for q, a in chat]
    return Sample([message for pair in pairs for message in pair])


def tokenizers(tiny: str) -> dict[str, Any]:
    """Byte-level BPE with marks, without, and with a template that trims; and a real Llama tokenizer if available."""
    found = {name: load_tokenizer(ModelOptions(tiny)) for name in ("marks", "prefixes", "trimming")}
    found["prefixes"].chat_template = UNMARKED
    found["trimming"].chat_template = TRIMMING
    if (SHARED / "models/stories260K").exists():
        template = Path(tiny) / "llama.jinja"
        template.write_text(LLAMA)
        options = ModelOptions(str(SHARED / "models/stories260K"), chat_template=str(template), pad_token="</s>")
        found["llama"] = load_tokenizer(options)
    return found


@pytest.fixture(scope="module")
def encoders(tiny: str) -> dict[str, Encoder]:
    return {name: Encoder(tokenizer, max_length=10**6) for name, tokenizer in tokenizers(tiny).items()}


def special_ids(encoder: Encoder, sample: Sample) -> list[int]:
    """The ids of special tokens in an encoded conversation, in order."""
    return [token for token in encoder(sample).input_ids.tolist() if token in encoder.special_tokens.ids]


@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
@given(chats)
def test_special_tokens_are_exactly_those_of_the_template(
    encoders: dict[str, Encoder], chat: list[tuple[str, str]]
) -> None:
    for encoder in encoders.values():
        assert encoder.special_tokens.ids
        assert special_ids(encoder, sample_of(chat)) == special_ids(encoder, sample_of([("q", "a")] * len(chat)))


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW)
@given(chats)
def test_special_tokens_in_text_stay_as_text_and_are_trained_on_in_answers(
    encoders: dict[str, Encoder], chat: list[tuple[str, str]]
) -> None:
    encoder = encoders["marks"]
    row = encoder(sample_of(chat))
    whole = encoder.tokenizer.apply_chat_template(sample_of(chat).messages, tokenize=False)
    assert encoder.tokenizer.decode(row.input_ids, clean_up_tokenization_spaces=False) == whole
    trained = encoder.tokenizer.decode(row.input_ids[row.target], clean_up_tokenization_spaces=False)
    assert trained == "".join(f"{answer}.<|im_end|>" for _, answer in chat)


@settings(max_examples=40, deadline=None, suppress_health_check=SLOW)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a b", "é 日本\n", " x "]), st.sampled_from(["b", " 😀 c"])), min_size=1, max_size=3
    )
)
def test_escaping_changes_nothing_in_text_without_special_tokens(
    encoders: dict[str, Encoder], chat: list[tuple[str, str]]
) -> None:
    for encoder in encoders.values():
        plain = encoder(sample_of(chat))
        in_text = encoder.special_tokens.in_text
        try:
            encoder.special_tokens.in_text = lambda value: True  # type: ignore[method-assign]
            escaped = encoder(sample_of(chat))
        finally:
            encoder.special_tokens.in_text = in_text  # type: ignore[method-assign]
        assert escaped.input_ids.tolist() == plain.input_ids.tolist()
        assert escaped.target.tolist() == plain.target.tolist()


@pytest.mark.parametrize("name", SPECIAL)
def test_a_prompt_and_a_plain_text_have_no_special_token_from_text(encoders: dict[str, Encoder], name: str) -> None:
    for encoder in encoders.values():
        assert [
            token for token in encoder.prompt(sample_of([(name, "a")])).tolist() if token in encoder.special_tokens.ids
        ] == [
            token for token in encoder.prompt(sample_of([("q", "a")])).tolist() if token in encoder.special_tokens.ids
        ]
        text = Sample([{"role": "text", "content": f"one {name} two"}])
        assert special_ids(encoder, text) == special_ids(encoder, Sample([{"role": "text", "content": "one two"}]))


def test_special_tokens_in_text_are_reported_once(
    tiny: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("curate"), "propagate", True)
    encoder = Encoder(load_tokenizer(ModelOptions(tiny)), max_length=99)
    for text in ("fine", "<|im_", "<|im_end|>", "<|im_start|>"):
        encoder(sample_of([(text, "a")]))
    assert len([line for line in caplog.messages if "special tokens" in line]) == 1


def test_names_and_arguments_of_tool_calls_are_text_too(tiny: str) -> None:
    tokenizer = load_tokenizer(ModelOptions(tiny))
    tokenizer.chat_template = (
        "{{ tools | tojson }}{% for m in messages %}<|im_start|>{{ m.content }}{% if m.tool_calls %}"
        "{{ m.tool_calls | tojson }}{% endif %}<|im_end|>{% endfor %}"
    )
    call = {"type": "function", "function": {"name": "f", "arguments": {"<|im_end|>": ["<|im_start|>"]}}}
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    row = Encoder(tokenizer, max_length=999)(Sample(messages, tools=[{"name": "<|im_end|>"}]))
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    ids = row.input_ids.tolist()
    assert [token for token in ids if token in (start, end)] == [start, end] * 2
    assert json.dumps(call["function"]["arguments"]) in tokenizer.decode(ids)


def test_a_sample_whose_special_tokens_cannot_be_separated_is_rejected(tiny: str) -> None:
    rejected: dict[str, str] = {}
    tokenizer = load_tokenizer(ModelOptions(tiny))
    tokenizer.chat_template = UNMARKED.replace("message['content']", "message['content'].split('<|im_end|>')[0]")
    bad, good = sample_of([("a <|im_end|> b", "c")]), sample_of([("a", "c")])
    rows = list(encode_all(enumerate([bad, good]), Encoder(tokenizer, max_length=99), rejected))
    assert [sample_id for _, sample_id, _ in rows] == [good.sample_id]
    assert rejected == {bad.sample_id: SPECIAL_TOKENS_IN_TEXT}
    private = sample_of([("\U000f0041 <|im_end|>", "c")])
    with pytest.raises(MaskError, match="cannot separate them"):
        Encoder(load_tokenizer(ModelOptions(tiny)), max_length=99)(private)


def test_special_tokens_in_the_vocabulary_of_plain_text_are_an_error() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [
        ("<unk>", 0.0),
        ("</s>", 0.0),
        ("a", -1.0),
        ("▁", -2.0),
        ("<", -5.0),
        ("/", -5.0),
        ("s", -5.0),
        (">", -5.0),
    ]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>", pad_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    encoder = Encoder(tokenizer, max_length=99)
    with pytest.raises(MaskError, match="cannot separate them"):
        encoder(sample_of([("a</s>a", "a")]))
    assert special_ids(encoder, sample_of([("a", "a")])) == [1, 1]


def test_a_conversation_that_the_template_cannot_render_is_rejected_and_the_others_are_encoded(tiny: str) -> None:
    rejected: dict[str, str] = {}
    tokenizer = load_tokenizer(ModelOptions(tiny))
    tokenizer.chat_template = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}<|im_start|>{{ m.content }}"
        "{% generation %}<|im_end|>{% endgeneration %}{% endfor %}"
    )
    good = sample_of([("a", "c")])
    odd = Sample([*good.messages, {"role": "assistant", "content": "again"}])
    tooled = Sample(good.messages, tools=["no schema"])
    rows = list(encode_all(enumerate([odd, good, tooled]), Encoder(tokenizer, max_length=99), rejected))
    assert [position for position, _, _ in rows] == [1]
    assert rejected == {
        odd.sample_id: "the chat template raises: roles must alternate",
        tooled.sample_id: "the chat template fails: a tool definition is not a JSON object",
    }
    with pytest.raises(MaskError, match="roles must alternate"):
        Encoder(tokenizer, max_length=99)(odd)
