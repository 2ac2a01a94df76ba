"""A token or position without an embedding, and a tokenizer that lacks a part, are told before the first step."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from curate import make
from curate.errors import ModelError
from curate.lm.input_limits import InputLimits, tokens_outside
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import add_lora, load_model, load_tokenizer, say_once
from curate.store import Store

ROWS = [{"instruction": f"Say {word}.", "output": f"{word} {word}"} for word in ("red", "green", "blue", "grey") * 3]
SMALL = {"selector": "random", "candidates": 4, "keep": 2, "max_steps": 2, "pool": "pool"}


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    say_once.cache_clear()
    caplog.set_level(logging.INFO, "curate")


@pytest.fixture
def folder(tiny: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def change(path: Path, act: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    act(values)
    path.write_text(json.dumps(values))


def rows_of(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["vocab_size"])


def add_token(folder: Path, content: str, *, padding: bool = False) -> int:
    """Give the tokenizer a token behind the last row of the embedding; return its id."""
    number = rows_of(folder)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    token = {"id": number, "content": content, "special": padding, **flags}
    change(folder / "tokenizer.json", lambda values: values["added_tokens"].append(token))
    if padding:
        change(folder / "tokenizer_config.json", lambda values: values.update(pad_token=content))
    return number


def ingest(store: Store, tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make(store, "ingest", name="pool", data=[str(tmp_path / "rows.jsonl")])


def doctor(curate: Callable[..., Any], store: Store, folder: Path, *flags: str) -> Any:
    return curate("doctor", "--store", str(store.root), "--model", str(folder), "--pool", "pool", *flags)


def evaluated(store: Store, folder: Path, **values: Any) -> Any:
    return make(store, "evaluate", name="e", pool="pool", model=str(folder), max_new_tokens=4, **values)


def test_a_padding_token_without_a_row(store: Store, folder: Path, tmp_path: Path, curate: Any) -> None:
    number = add_token(folder, "[NOTHING]", padding=True)
    ingest(store, tmp_path, ROWS)
    message = (
        rf"padding token '\[NOTHING\]' has the id {number:,}, and the embedding of LlamaForCausalLM has {number:,} "
    )
    with pytest.raises(ModelError, match=message + r"rows \(ids 0 to .*Give another --pad-token, such as '.+'\."):
        make(store, "train", name="run", model=str(folder), **SMALL)
    with pytest.raises(ModelError, match=message):
        evaluated(store, folder, metric=("exact_match",))
    told = doctor(curate, store, folder)
    assert told.code == 1 and f"'[NOTHING]' has the id {number:,}" in told.out
    pad = load_tokenizer(ModelOptions(str(folder))).eos_token
    assert make(store, "train", name="run", model=str(folder), pad_token=pad, **SMALL).rows
    assert doctor(curate, store, folder, "--pad-token", str(pad)).code == 0


def test_a_token_of_a_text_without_a_row(store: Store, folder: Path, tmp_path: Path, curate: Any) -> None:
    number = add_token(folder, "<blink>")
    ingest(store, tmp_path, ROWS)
    told = doctor(curate, store, folder)
    assert told.code == 0 and f"none for '<blink>' (id {number:,})" in told.out
    make(store, "embed", name="before", pool="pool", model=str(folder), signals=("loss",))
    ingest(store, tmp_path, [*ROWS, {"instruction": "What now?", "output": "a <blink> b"}])
    message = rf"a text has the token id {number:,}, and the embedding of LlamaForCausalLM has {number:,} rows"
    with pytest.raises(ModelError, match="The pool: " + message):
        make(store, "train", name="run", model=str(folder), **SMALL)
    with pytest.raises(ModelError, match="The pool 'pool': " + message):
        make(store, "embed", name="after", pool="pool", model=str(folder), signals=("loss",))
    with pytest.raises(ModelError, match="The evaluation: " + message):
        evaluated(store, folder)
    told = doctor(curate, store, folder)
    assert told.code == 1 and "which stands in sample " in told.out


def test_texts_longer_than_the_learned_positions(store: Store, folder: Path, tmp_path: Path, curate: Any) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=rows_of(folder), n_positions=24, n_embd=16, n_layer=1, n_head=2, pad_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    ingest(store, tmp_path, [*ROWS, {"instruction": "Count.", "output": "one two three " * 20}])
    message = r"a text has \d+ tokens, and GPT2LMHeadModel has 24 learned positions\. Give --max-length 24\."
    with pytest.raises(ModelError, match=message):
        make(store, "train", name="run", model=str(folder), **SMALL)
    with pytest.raises(ModelError, match=message):
        make(store, "embed", name="f", pool="pool", model=str(folder), signals=("loss",))
    with pytest.raises(ModelError, match=message):
        evaluated(store, folder)
    told = doctor(curate, store, folder).out
    assert "GPT2LMHeadModel has 24 learned positions, and --max-length is 512" in told and "--max-length 24" in told
    assert make(store, "embed", name="f", pool="pool", model=str(folder), signals=("loss",), max_length=24).rows


def test_limits_are_those_of_the_modules(tiny: str) -> None:
    model = load_model(ModelOptions(tiny))
    rows = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    for each in (model, add_lora(model, r=2, alpha=4, dropout=0.0, target_modules="all-linear")):
        limits = InputLimits.of(each)
        assert (limits.rows, limits.positions, limits.model) == (rows, None, "LlamaForCausalLM")
        limits.require(rows - 1, 1 << 30, "The pool")
        with pytest.raises(ModelError, match=f"token id {rows:,}"):
            limits.require(rows, 1, "The pool")
    shape = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "ffn_dim": 8}
    opt = OPTForCausalLM(OPTConfig(**shape, max_position_embeddings=20, word_embed_proj_dim=8))
    assert InputLimits.of(opt).positions == 20
    assert tokens_outside(load_tokenizer(ModelOptions(tiny)), rows) == {}


# Tokenizers that lack a part


def test_a_tokenizer_without_a_padding_token_pads_with_its_end_token(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change(folder / "tokenizer_config.json", lambda values: values.pop("pad_token"))
    tokenizer = load_tokenizer(ModelOptions(str(folder)))
    assert tokenizer.pad_token == tokenizer.eos_token
    load_tokenizer(ModelOptions(str(folder)))
    assert caplog.text.count("has no padding token: it pads with its end token") == 1


def test_a_tokenizer_without_an_end_token_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(folder / "tokenizer_config.json", lambda values: values.pop("eos_token"))
    load_tokenizer(ModelOptions(str(folder)))
    assert "has no end token: an answer ends as the chat template ends it" in caplog.text


def test_an_adapter_without_a_tokenizer_takes_that_of_its_base_model(
    store: Store, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ingest(store, tmp_path, ROWS)
    run = make(store, "train", name="run", model=str(folder), **SMALL)
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in run.files.glob("adapter*"):
        shutil.copy(file, bare)
    whole, alone = (load_tokenizer(ModelOptions(str(location))) for location in (run.files, bare))
    assert whole.get_vocab() == alone.get_vocab() and whole.chat_template == alone.chat_template
    assert f"The adapter in {bare} has no tokenizer: it takes that of its base model" in caplog.text
    whole_loss, bare_loss = (
        make(store, "embed", name=f"f{n}", pool="pool", model=str(location), signals=("loss",)).summary["tokens"]
        for n, location in enumerate((run.files, bare))
    )
    assert whole_loss == bare_loss
