"""A model folder that is damaged, or made to harm, is one sentence: what, where, what to do. Nothing of it runs."""

from __future__ import annotations

import json
import re
import shutil
import struct
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from curate.errors import ModelError
from curate.lm.model.boundary import loading, reason_of
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import add_lora, load_model, load_tokenizer
from curate.lm.model.memory import count
from curate.lm.model.parameter_count import count_weights
from curate.lm.model.weight_files import header_of

WEIGHTS = "model.safetensors"
Break = Callable[[Path], None]


def config(**changes: Any) -> Break:
    return lambda folder: edit(folder / "config.json", changes)


def edit(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def replaced(name: str, content: bytes | str) -> Break:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).unlink(missing_ok=True) or (folder / name).write_bytes(data)  # type: ignore[func-returns-value]


def header(change: Callable[[dict[str, Any]], Any], length: int | None = None) -> Break:
    """Rewrite the header of the weights."""

    def act(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        content = json.loads(data[8 : 8 + size])
        text = json.dumps(change(content) or content).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", length or len(text)) + text + data[8 + size :])

    return act


def cut(share: float) -> Break:
    def act(folder: Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(data[: int(len(data) * share)])

    return act


def shards(*names: Any) -> Break:
    def act(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).rename(folder / "part.safetensors")
        index = {"metadata": {}, "weight_map": {name: names[i % len(names)] for i, name in enumerate(tensors)}}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))

    return act


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Break:
    def act(folder: Path) -> None:
        content = load_file(folder / WEIGHTS)
        change(content)
        save_file(content, folder / WEIGHTS, metadata={"format": "pt"})

    return act


def deep(name: str) -> Break:
    return replaced(name, '{"a":' * 20_000 + "1" + "}" * 20_000)


def fifo(name: str) -> Break:
    import os

    return lambda folder: (folder / name).unlink() or os.mkfifo(folder / name)  # type: ignore[func-returns-value]


NORM, HEAD = "model.norm.weight", "model.embed_tokens.weight"
WEIGHTS_AND_CONFIG: dict[str, tuple[Break, str]] = {
    "hidden size -1": (config(hidden_size=-1), "hidden_size is '-1'"),
    "hidden size big": (config(hidden_size="big"), "hidden_size is 'big'"),
    "hidden size 10^6": (config(hidden_size=10**6), "does not fit its weights"),
    "hidden size 10^30": (config(hidden_size=10**30), "hidden_size is"),
    "hidden size 0": (config(hidden_size=0), "hidden_size is '0'"),
    "hidden size list": (config(hidden_size=[32, "x"]), "hidden_size is 'x'"),
    "hidden size true": (config(hidden_size=True), "hidden_size is 'True'"),
    "hidden size nan": (config(hidden_size=float("nan")), "hidden_size is 'nan'"),
    "layers 10^6": (config(num_hidden_layers=10**6), "num_hidden_layers is '1000000'"),
    "layers 1999": (config(num_hidden_layers=1999), "describes 1,999 layers"),
    "layers within": (config(text_config={"num_hidden_layers": 10**9}), "num_hidden_layers is"),
    "more layers": (config(num_hidden_layers=16), "describes .* weights, and the files hold"),
    "one layer more": (config(num_hidden_layers=3), "tensors are missing, such as 'model.layers.2"),
    "no heads": (config(num_attention_heads=0), "from .*model"),
    "odd heads": (config(num_attention_heads=7), "from .*model"),
    "vocabulary": (config(vocab_size=999), "is 999×32 by the config"),
    "dtype": (config(dtype="float99", torch_dtype="float99"), "from .*model"),
    "activation": (config(hidden_act="nonsense"), "from .*model"),
    "rope": (config(rope_parameters={"rope_type": 7}, rope_theta="x"), "from .*model"),
    "no model type": (config(model_type=None, architectures=None), "from .*model"),
    "unknown type": (config(model_type="nobody-knows-it"), "from .*model"),
    "encoder": (config(model_type="vit", architectures=["ViTModel"]), "from .*model"),
    "quantization list": (config(quantization_config=[1]), "from .*model"),
    "code from the Hub": (config(_attn_implementation="someone/kernel"), "asks for code from the Hub"),
    "weights elsewhere": (config(transformers_weights="../x.safetensors"), "only safetensors files in the same folder"),
    "config missing": (lambda folder: (folder / "config.json").unlink(), "has no file config.json"),
    "config empty": (replaced("config.json", ""), "config.json is not valid JSON"),
    "config list": (replaced("config.json", "[]"), "does not hold a JSON object"),
    "config binary": (replaced("config.json", bytes(range(256))), "config.json is not valid JSON"),
    "config deep": (deep("config.json"), "config.json is not valid JSON"),
    "config pipe": (fifo("config.json"), "config.json is a pipe"),
    "weights missing": (lambda folder: (folder / WEIGHTS).unlink(), "no weights in safetensors files"),
    "weights empty": (replaced(WEIGHTS, ""), "is cut off or not a safetensors file"),
    "weights text": (replaced(WEIGHTS, "no tensors at all, but a text"), "is cut off or not a safetensors file"),
    "weights pipe": (fifo(WEIGHTS), "model.safetensors is a pipe"),
    "weights cut to 99 %": (cut(0.99), "is cut off: it has .* bytes and should have"),
    "weights cut to 1 %": (cut(0.01), "is cut off"),
    "weights longer": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes() + b"x"), "is damaged"),
    "header too large": (header(lambda h: None, 10**12), "is cut off or not a safetensors file"),
    "header list": (header(lambda h: [h]), "header of .* is damaged"),
    "header shape": (header(lambda h: h[NORM].update(shape=[-32])), "header of .* is damaged"),
    "header text shape": (header(lambda h: h[NORM].update(shape="ab")), "header of .* is damaged"),
    "header type": (header(lambda h: h[NORM].update(dtype="X9")), "from .*model"),
    "header overlap": (header(lambda h: h[NORM].update(data_offsets=[0, 4096])), "is damaged|from .*model"),
    "header no offsets": (header(lambda h: h[NORM].pop("data_offsets") and None), "header of .* is damaged"),
    "shards lead out": (shards("../part.safetensors"), "names the weight file '../part.safetensors'"),
    "shards absolute": (shards("/etc/passwd"), "names the weight file '/etc/passwd'"),
    "shards numbers": (shards(7), "names the weight file '7'"),
    "shards pickles": (shards("part.bin"), "only safetensors files"),
    "shards missing": (shards("part.safetensors", "other.safetensors"), "other.safetensors is missing"),
    "index empty": (lambda f: (shards("x.safetensors")(f), replaced(f"{WEIGHTS}.index.json", "{}")(f))[0], "no weight"),
    "tensor missing": (tensors(lambda t: t.pop(NORM)), "1 tensors are missing, such as 'model.norm.weight'"),
    "tensor shape": (tensors(lambda t: t.update({NORM: torch.ones(31)})), "is 32 by the config and 31"),
    "nan": (tensors(lambda t: t[NORM].fill_(torch.nan)), "'model.norm.weight' has 32 of 32 weights that are NaN"),
    "inf": (tensors(lambda t: t[HEAD][3, :2].fill_(-torch.inf)), "'model.embed_tokens.weight' has 2 of"),
}  # fmt: skip

TOKENIZER: dict[str, tuple[Break, str]] = {
    "missing": (
        lambda f: ((f / "tokenizer.json").unlink(), (f / "tokenizer_config.json").unlink())[0],
        "",
    ),
    "empty": (replaced("tokenizer.json", ""), ""),
    "list": (replaced("tokenizer.json", "[]"), ""),
    "object": (replaced("tokenizer.json", "{}"), ""),
    "pipe": (fifo("tokenizer.json"), "tokenizer.json is a pipe"),
    "binary": (replaced("tokenizer.json", bytes(range(256))), ""),
    "deep": (deep("tokenizer.json"), ""),
    "no model": (lambda f: edit(f / "tokenizer.json", {"model": None}), ""),
    "odd model": (lambda f: edit(f / "tokenizer.json", {"model": {"type": "Nothing"}}), ""),
    "odd merges": (lambda f: edit(f / "tokenizer.json", {"model": {"type": "BPE", "vocab": {}, "merges": ["a"]}}), ""),
    "odd tokens": (lambda f: edit(f / "tokenizer.json", {"added_tokens": [{"id": -1, "content": 3}]}), ""),
    "odd decoder": (lambda f: edit(f / "tokenizer.json", {"decoder": {"type": "x"}}), ""),
    "settings list": (replaced("tokenizer_config.json", "[1]"), ""),
    "settings text": (replaced("tokenizer_config.json", "{broken"), ""),
    "settings tokens": (lambda f: edit(f / "tokenizer_config.json", {"eos_token": 7, "pad_token": [1]}), ""),
    "settings decoder": (lambda f: edit(f / "tokenizer_config.json", {"added_tokens_decoder": {"x": 1}}), ""),
    "settings length": (
        lambda f: edit(f / "tokenizer_config.json", {"model_max_length": {}}),
        "Cannot load a tokenizer",
    ),
    "template": (replaced("chat_template.jinja", "{% for %}"), "syntax error in line 1"),
}


@pytest.fixture
def folder(tiny: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def is_a_sentence(text: str) -> bool:
    assert not re.search(r"\w(Error|Exception|SystemExit)\b", text), f"names a class of Python: {text}"
    return len(text) < 900 and text.isprintable() and text.endswith(".") and "Traceback" not in text


@pytest.mark.parametrize("name", WEIGHTS_AND_CONFIG)
def test_a_broken_model_is_one_sentence(folder: Path, name: str) -> None:
    act, message = WEIGHTS_AND_CONFIG[name]
    act(folder)
    started = time.monotonic()
    with pytest.raises(ModelError, match=message) as caught:
        load_model(ModelOptions(str(folder)))
    assert is_a_sentence(str(caught.value)), caught.value
    assert str(folder) in str(caught.value) or "tensors are missing" in str(caught.value)
    assert time.monotonic() - started < 20
    for estimate in (lambda: count(ModelOptions(str(folder)), None, 64), lambda: count_weights(str(folder))):
        try:
            estimate()
        except ModelError as error:
            assert is_a_sentence(str(error))


@pytest.mark.parametrize("name", TOKENIZER)
def test_a_broken_tokenizer_is_one_sentence(folder: Path, name: str) -> None:
    act, message = TOKENIZER[name]
    act(folder)
    try:
        load_tokenizer(ModelOptions(str(folder)))
    except ModelError as error:
        assert is_a_sentence(str(error)) and str(folder) in str(error)
        assert message in str(error)
    else:
        assert name in ("settings tokens", "settings decoder", "odd decoder"), "it was loaded"


def test_a_sound_model_in_shards_is_loaded(folder: Path, tiny: str) -> None:
    shards("part.safetensors")(folder)
    wanted = load_model(ModelOptions(tiny)).state_dict()
    found = load_model(ModelOptions(str(folder))).state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert {name: tuple(value.shape) for name, value in load_file(folder / "part.safetensors").items()} == header_of(
        folder / "part.safetensors"
    )


def test_code_of_a_model_that_exits_does_not_end_the_command(folder: Path) -> None:
    (folder / "own.py").write_text("raise SystemExit(0)\n")
    config(auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}, model_type="own")(folder)
    with pytest.raises(ModelError, match="tried to end the process with exit code 0"):
        load_model(ModelOptions(str(folder), trust_remote_code=True))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("a  b.\n"), "a b"),
        (TypeError("unhashable type"), "unhashable type"),
        (KeyError("rope"), "there is no 'rope'"),
        (RecursionError("maximum recursion depth"), "it is nested too deeply"),
        (Exception("pkg.own.SafetensorError: header too long"), "header too long"),
        (RuntimeError("caused by JSONDecodeError('Expecting value')"), "caused by ('Expecting value')"),
        (AssertionError(), "the library gives no reason"),
        (ValueError("\x1b[31m" + "x" * 400), "\\x1b[31m" + "x" * 295),
    ],
    ids=repr,
)
def test_a_reason_names_no_class_of_python(error: BaseException, reason: str) -> None:
    assert reason_of(error) == reason


def test_a_traceback_still_has_the_class(folder: Path) -> None:
    with pytest.raises(ModelError) as caught, loading("model", str(folder)):
        raise TypeError("odd")
    assert "TypeError" not in str(caught.value)
    assert "TypeError: odd" in "".join(traceback.format_exception(caught.value))


# Adapters


@pytest.fixture
def adapter(tiny: str, tmp_path: Path) -> Path:
    adapted = add_lora(load_model(ModelOptions(tiny)), r=2, alpha=4, dropout=0.0, target_modules="all-linear")
    adapted.save_pretrained(str(tmp_path / "adapter"))  # type: ignore[operator]
    edit(tmp_path / "adapter" / "adapter_config.json", {"base_model_name_or_path": tiny})
    return tmp_path / "adapter"


def lora(**changes: Any) -> Break:
    return lambda folder: edit(folder / "adapter_config.json", changes)


def spoiled(folder: Path) -> None:
    content = load_file(folder / "adapter_model.safetensors")
    next(iter(content.values()))[0, 0] = torch.nan
    save_file(content, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def without_a_tensor(folder: Path) -> None:
    content = load_file(folder / "adapter_model.safetensors")
    content.pop(next(iter(content)))
    save_file(content, folder / "adapter_model.safetensors", metadata={"format": "pt"})


ADAPTERS: dict[str, tuple[Break, str]] = {
    "its own base": (lambda f: edit(f / "adapter_config.json", {"base_model_name_or_path": str(f)}), "is its own base"),
    "its own base, relative": (
        lambda f: edit(f / "adapter_config.json", {"base_model_name_or_path": f"{f}/../{f.name}"}), "is its own base"
    ),
    "no base": (lora(base_model_name_or_path=None), "does not name its base model"),
    "base a number": (lora(base_model_name_or_path=7), "base_model_name_or_path is '7'"),
    "base a list": (lora(base_model_name_or_path=["x"]), "does not name its base model"),
    "base absent": (lora(base_model_name_or_path="./nothing/here"), "not on this machine: './nothing/here'"),
    "base with zero": (lora(base_model_name_or_path="a\0b"), "does not name its base model"),
    "type": (lora(peft_type="NOBODY"), "Cannot load an adapter from"),
    "rank": (lora(r=-1), "Cannot load an adapter from"),
    "rank text": (lora(r="x"), "Cannot load an adapter from"),
    "other rank": (lora(r=4), "Cannot load an adapter from"),
    "modules": (lora(target_modules=["nothing"]), "Cannot load an adapter from"),
    "megatron": (lora(megatron_config={}, megatron_core="nothing"), "for Megatron"),
    "config text": (replaced("adapter_config.json", "no"), "not valid JSON"),
    "pickle": (
        lambda f: [replaced("adapter_model.bin", "x")(f), (f / "adapter_model.safetensors").unlink()][0], "are a pickle"
    ),
    "weights missing": (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors is missing"),
    "weights cut": (
        lambda f: (f / "adapter_model.safetensors").write_bytes((f / "adapter_model.safetensors").read_bytes()[:-9]),
        "is cut off",
    ),
    "tensor missing": (without_a_tensor, "missing adapter keys"),
    "nan": (spoiled, "weights that are NaN or infinite"),
}  # fmt: skip


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_broken_adapter_is_one_sentence(adapter: Path, name: str) -> None:
    load_model(ModelOptions(str(adapter)))
    act, message = ADAPTERS[name]
    act(adapter)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(ModelOptions(str(adapter)))
    assert is_a_sentence(str(caught.value)), caught.value
    try:
        count_weights(str(adapter))
    except ModelError as error:
        assert is_a_sentence(str(error))


def test_adapters_that_name_each_other_are_named(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "other")
    lora(base_model_name_or_path=str(tmp_path / "other"))(adapter)
    lora(base_model_name_or_path=str(adapter))(tmp_path / "other")
    for use in (lambda: load_model(ModelOptions(str(adapter))), lambda: count_weights(str(adapter))):
        with pytest.raises(ModelError, match=r"is its own base model by way of .*other"):
            use()


# Commands


@pytest.mark.parametrize(
    "act",
    [
        cut(0.5),
        config(hidden_size=-1),
        config(num_hidden_layers=10**6),
        shards("../../x.safetensors"),
        tensors(lambda t: t[NORM].fill_(torch.nan)),
        replaced("tokenizer.json", "{}"),
        deep("config.json"),
    ],
    ids=["cut", "width", "layers", "shards", "nan", "tokenizer", "deep"],
)
def test_commands_say_it_in_one_sentence(curate: Callable[..., Any], pool_file: Path, folder: Path, act: Break) -> None:
    assert curate("ingest", "--data", str(pool_file), "--name", "pool").code == 0
    act(folder)
    model = ["--model", str(folder), "--pool", "pool"]
    outcomes = [curate("train", *model, "--name", "run", "--max-steps", "1", "--candidates", "4", "--keep", "2")]
    outcomes += [curate("embed", *model, "--name", "features"), curate("inspect", *model), curate("doctor", *model)]
    for outcome in outcomes:
        assert "Traceback" not in outcome.err and outcome.code in (0, 1)
    for outcome in outcomes[:2]:
        lines = [line for line in outcome.err.splitlines() if line.startswith("Error: ")]
        assert outcome.code == 1 and len(lines) == 1 and str(folder) in lines[0]
