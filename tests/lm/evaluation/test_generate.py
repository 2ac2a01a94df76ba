"""Greedy decoding in batches equals a token-by-token loop, and an answer ends where its turn ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from curate.errors import ModelError
from curate.lm.evaluation.generate import Generator, turn_end_of
from curate.lm.evaluation.losses import last_turn, row_of
from curate.lm.model.load import add_lora, base_of, load_model, load_tokenizer
from curate.lm.tokens.encode import Encoder
from curate.samples import Sample

PROMPTS = ("Capital of red?", "And of the green one, in a long question?", "Add 4 and 8.", "Who?", "Say it.")


@pytest.mark.parametrize("batch", [1, 5])
def test_answers_are_those_of_greedy_decoding_token_by_token(options: Any, batch: int) -> None:
    """An untrained model generates up to the maximum length. Its own generation settings are ignored."""
    torch.manual_seed(3)
    tokenizer = load_tokenizer(options)
    model = add_lora(load_model(options), r=2, alpha=4, dropout=0.0, target_modules="all-linear").eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    for part in (model, base_of(model)):
        part.generation_config = GenerationConfig(do_sample=True, repetition_penalty=3.0, max_length=5)
    prompts = [np.array(tokenizer(ask)["input_ids"], dtype=np.int32) for ask in PROMPTS]
    generator = Generator(model, tokenizer, max_new_tokens=12, batch_size=batch)
    advanced: list[int] = []
    answers = generator(prompts, advance=advanced.append)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = torch.tensor(prompt, dtype=torch.int64)[None]
        for _ in range(12):
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
            if ids[0, -1] == tokenizer.eos_token_id:
                break
        assert answer == tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True)
    assert sum(advanced) == len(PROMPTS) and any(answers)
    assert generator.has_room(np.zeros(116, np.int32)) and not generator.has_room(np.zeros(117, np.int32))


def test_an_answer_ends_where_the_template_ends_a_turn(options: Any) -> None:
    tokenizer = load_tokenizer(options)
    assert turn_end_of(tokenizer) == "<|im_end|>"
    assert turn_end_of(load_tokenizer(replace(options, chat_template="plain"))) == tokenizer.eos_token
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}[/END]\n{% endfor %}"
    model, generated = load_model(options).eval(), tokenizer("Blue 7[/END]\nuser: what")["input_ids"]
    generator = Generator(model, tokenizer, max_new_tokens=len(generated), batch_size=2)
    model.generate = lambda input_ids, **_: torch.cat([input_ids, torch.tensor([generated])], dim=1)  # type: ignore[method-assign]
    assert generator([np.array([5, 6], np.int32)], advance=lambda _: None) == ["Blue 7"]


def test_a_batch_is_halved_when_memory_runs_out(options: Any, caplog: pytest.LogCaptureFixture) -> None:
    model, tokenizer = load_model(options).eval(), load_tokenizer(options)
    prompts = [np.array([5 + i, 6], np.int32) for i in range(5)]
    whole = Generator(model, tokenizer, max_new_tokens=3, batch_size=8)(prompts, advance=lambda _: None)
    generate, most = model.generate, 1

    def small(input_ids: torch.Tensor, **options: Any) -> Any:
        if len(input_ids) > most:
            raise torch.OutOfMemoryError("no")
        return generate(input_ids=input_ids, **options)

    model.generate = small  # type: ignore[method-assign]
    generator = Generator(model, tokenizer, max_new_tokens=3, batch_size=8)
    assert generator(prompts, advance=lambda _: None) == whole
    assert generator.batch_size == 1 and "--generate-batch-size 1 to start with this size" in caplog.text
    most = 0
    with pytest.raises(ModelError, match="Lower --max-new-tokens"):
        generator(prompts, advance=lambda _: None)


@pytest.mark.parametrize(
    "template", [None, "plain", "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>\n{% endfor %}"]
)
def test_a_prompt_is_what_stands_before_the_last_turn(options: Any, template: str | None) -> None:
    tokenizer = load_tokenizer(replace(options, chat_template="plain") if template == "plain" else options)
    if template and template != "plain":
        tokenizer.chat_template = template + "{% if add_generation_prompt %}[assistant]{% endif %}"
    turns = [("user", "Add 1 and 2."), ("assistant", "3"), ("user", "And 4?"), ("assistant", "7 of them")]
    sample = Sample([{"role": role, "content": content} for role, content in turns])
    encoder = Encoder(tokenizer, max_length=100)
    whole, prompt = encoder(sample), encoder.prompt(sample)
    assert whole.input_ids[: len(prompt)].tolist() == prompt.tolist()
    last = last_turn(whole)
    assert not last.target[: len(prompt)].any() and last.target[len(prompt) :].sum() < whole.target.sum()
    assert tokenizer.decode(last.input_ids[last.target]).startswith("7 of them")
    assert row_of(last)["labels"][last.target].tolist() == last.input_ids[last.target].tolist()
