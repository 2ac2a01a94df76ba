"""The demo's model: it loads as any other, its tokenizer reloads to the same ids, and it learns."""

from __future__ import annotations

import hashlib
from itertools import islice
from pathlib import Path

import pytest

from curate.demo.model import END, pack, texts, train_tokenizer, unigram_entropy
from curate.errors import ConfigError
from curate.stages import make
from curate.store import Artifact, Store

TINY = {"hidden_size": 32, "layers": 1, "heads": 2, "vocab_size": 512, "batch_size": 8, "sequence_length": 64}
CHAT = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make(
        Store(tmp_path_factory.mktemp("store")),
        "demo-model",
        name="tiny",
        seed=3,
        steps=60,
        learning_rate=0.01,
        **TINY,
    )


def test_pre_training_gets_below_what_a_model_without_context_could(model: Artifact) -> None:
    said = model.summary
    assert said["first_loss"] > 5.5 and said["last_loss"] < said["unigram_entropy"] - 0.5
    assert said["tokens_seen"] == 60 * 8 * 64 and said["vocabulary"] == 512


def test_the_saved_model_loads_by_the_usual_way_without_pickle(model: Artifact) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model.files)
    assert sum(parameter.numel() for parameter in loaded.parameters()) == model.summary["parameters"]
    assert loaded.dtype == torch.float32 and loaded.config.max_position_embeddings == 512
    suffixes = {path.suffix for path in model.files.iterdir()}
    assert ".safetensors" in suffixes and not suffixes & {".bin", ".pt", ".pkl"}


def test_the_tokenizer_reloads_with_the_same_ids_and_loses_no_text(model: Artifact) -> None:
    from transformers import AutoTokenizer

    built, loaded = train_tokenizer(3, 512), AutoTokenizer.from_pretrained(model.files)
    some = [*islice(texts(9), 200), "Zürich 12345 漢字 🙂\tx  y\n\n" + END]
    ids = built(some)["input_ids"]
    assert loaded(some)["input_ids"] == ids
    assert [loaded.decode(row, clean_up_tokenization_spaces=False) for row in ids] == some
    assert loaded.pad_token_id != loaded.eos_token_id == built.eos_token_id
    assert loaded.chat_template == built.chat_template


def test_the_chat_template_marks_exactly_what_the_assistant_says(model: Artifact) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model.files)
    asked = tokenizer.apply_chat_template(CHAT[:1], tokenize=False, add_generation_prompt=True)
    assert asked == "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == asked + "4<|im_end|>\n"
    encoded = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(marked) == "4<|im_end|>"


def test_digits_are_single_tokens_and_specials_one_each() -> None:
    tokenizer = train_tokenizer(3, 512)
    assert len(tokenizer("98765")["input_ids"]) == 5
    assert len(tokenizer(END)["input_ids"]) == 1


def test_packed_text_ends_each_text_and_has_an_entropy_by_hand() -> None:
    import torch

    tokenizer = train_tokenizer(3, 512)
    ids = pack(tokenizer, seed=3, blocks=4, length=32)
    assert ids.shape == (4, 32)
    decoded = tokenizer.decode(ids.flatten(), clean_up_tokenization_spaces=False)
    assert decoded.split(END)[:2] == list(islice(texts(3), 2))
    assert unigram_entropy(torch.tensor([[1, 1, 2, 2]])) == pytest.approx(0.6931, abs=1e-4)


def test_the_same_seed_makes_the_same_weights_and_leaves_torch_s_own_seed_alone(tmp_path: Path) -> None:
    import torch

    marks = []
    for place, seed in (("a", 5), ("b", 5), ("c", 6)):
        torch.manual_seed(0)
        expected = torch.rand(1)
        torch.manual_seed(0)
        made = make(Store(tmp_path / place), "demo-model", name="tiny", seed=seed, steps=3, **TINY)
        assert torch.equal(torch.rand(1), expected)
        marks.append(hashlib.md5((made.files / "model.safetensors").read_bytes()).hexdigest())
    assert marks[0] == marks[1] != marks[2]


def test_heads_that_do_not_divide_the_width_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiple"):
        make(Store(tmp_path), "demo-model", name="odd", hidden_size=30, heads=4)
