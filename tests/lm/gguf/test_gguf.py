"""A model in a GGUF file gives what the same model in safetensors gives; a broken or hostile file is one sentence."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from curate.errors import ModelError
from curate.lm.gguf.header import read_header
from curate.lm.gguf.model_file import gguf_file
from curate.lm.model.config_checks import ModelOptions, read_config
from curate.lm.model.load import load_model, load_tokenizer
from curate.lm.model.memory import count
from curate.lm.tokens.rendering import RENDERER, Budget, Conversation, RenderError
from curate.stages import make
from curate.store import Store
from tests.support.gguf_files import write_gguf

pytest.importorskip("gguf", reason="GGUF files need the extra gguf")

TEXT = "Add 12 and 7: 19.\n<b> é"


@pytest.fixture(scope="module")
def whole(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tiny, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def file(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(whole, tmp_path / "tiny.gguf"))


def test_logits_tokens_and_template_are_those_of_the_safetensors(tiny: str, file: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(ModelOptions(tiny)), load_tokenizer(ModelOptions(tiny))
    ids = torch.tensor([tokenizer(TEXT).input_ids])
    expected = model(ids).logits
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(file, folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')  # as repositories with GGUF files have it
    (folder / "chat_template.jinja").write_text("another template")
    for location in (file, folder):
        options = ModelOptions(str(location))
        read, its_tokenizer = load_model(options), load_tokenizer(options)
        assert torch.equal(read(ids).logits, expected)
        assert its_tokenizer(TEXT).input_ids == ids[0].tolist()
        assert its_tokenizer.chat_template == tokenizer.chat_template
        assert its_tokenizer.name_or_path == read.name_or_path == read.config._name_or_path == str(location)
        assert count(options, None, 16).weights == count(ModelOptions(tiny), None, 16).weights


def test_packed_weights_are_unpacked_trained_and_saved_as_safetensors(tiny: str, tmp_path: Path) -> None:
    file = write_gguf(tiny, tmp_path / "small-Q8_0.gguf", quantize=True)
    model, exact = load_model(ModelOptions(str(file))), load_model(ModelOptions(tiny))
    ids = torch.arange(3, 20)[None]
    difference = (model(ids).logits - exact(ids).logits).norm() / exact(ids).logits.norm()
    assert 0 < difference < 0.05
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    model.requires_grad_(True)(ids, labels=ids).loss.backward()
    model.save_pretrained(tmp_path / "saved")
    assert "quantization" not in (tmp_path / "saved" / "config.json").read_text()
    assert torch.equal(load_model(ModelOptions(str(tmp_path / "saved")))(ids).logits, model(ids).logits)


def test_a_file_of_the_same_name_in_the_working_folder_is_not_read(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model.gguf", "config.json", "tokenizer_config.json"):
        Path(name).write_text("no")
    assert load_model(ModelOptions("tiny.gguf")) and load_tokenizer(ModelOptions("tiny.gguf"))


@pytest.mark.parametrize("full", [False, True])
def test_a_run_trains_on_it_and_its_model_needs_no_gguf(
    store: Store, pool_file: Path, file: Path, full: bool, tmp_path: Path
) -> None:
    make(store, "ingest", name="pool", data=(str(pool_file),))
    small: dict[str, Any] = {"candidates": 4, "keep": 2, "max_steps": 2, "max_length": 64, "learning_rate": 1e-2}
    run = make(store, "train", name="run", pool="pool", model=str(file), selector="uds", full=full, **small)
    assert "tmp" not in (run.files / "tokenizer_config.json").read_text()
    trained = load_model(ModelOptions(str(run.files)))
    first = load_model(ModelOptions(str(file)))
    ids = torch.arange(3, 20)[None]
    assert not torch.equal(trained(ids).logits, first(ids).logits)
    features = make(store, "embed", name="f", pool="pool", model="run", signals=("loss",))
    assert features.rows == 120
    before = make(store, "embed", name="g", pool="pool", model=str(file), signals=("loss",))
    moved = Path(shutil.copy(file, tmp_path / "renamed.gguf"))
    assert make(store, "embed", name="h", pool="pool", model=str(moved), signals=("loss",)).path == before.path


def put(at: int, code: str, value: Any) -> Callable[[bytes], bytes]:
    return lambda data: data[:at] + struct.pack(f"<{code}", value) + data[at + struct.calcsize(code) :]


def after(name: str, offset: int, code: str, value: Any) -> Callable[[bytes], bytes]:
    """Change a number at an offset behind a name."""

    def act(data: bytes) -> bytes:
        at = data.index(name.encode()) + len(name) + offset
        return put(at, code, value)(data)

    return act


BROKEN: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "does not begin as a GGUF file"),
    "no magic": (put(0, "I", 7), "does not begin as a GGUF file"),
    "version": (put(4, "I", 77), "of version 77"),
    "many tensors": (put(8, "Q", 1 << 60), "tensors"),
    "many values": (put(16, "Q", 1 << 60), "values"),
    "more values than there are": (put(16, "Q", 60_000), "cannot be read|is damaged"),
    "cut in the header": (lambda data: data[:300], "is cut off"),
    "cut in the weights": (lambda data: data[:-5000], "is cut off: it has .* bytes and should have"),
    "long name": (put(24, "Q", 1 << 50), "bytes, and 4,096 are the most"),
    "type of a value": (after("general.architecture", 0, "I", 99), "unknown type 99"),
    "layers": (after("llama.block_count", 4, "I", 1 << 30), "its block_count is"),
    "width": (after("llama.embedding_length", 4, "I", 1 << 31), "its embedding_length is"),
    "width that does not fit": (after("llama.embedding_length", 4, "I", 1 << 19), "cannot be right: head_dim"),
    "layers that do not fit": (after("llama.block_count", 4, "I", 1999), "does not fit its weights"),
    "vocabulary that does not fit": (after("llama.vocab_size", 4, "I", 1 << 25), "does not fit its weights"),
    "number of tokens": (after("tokenizer.ggml.tokens", 8, "Q", 1 << 40), "should have 1,099,511,627,776 texts"),
    "list of lists": (after("tokenizer.ggml.tokens", 4, "I", 9), "a list of the type 9"),
    "dimensions": (after("token_embd.weight", 0, "I", 1 << 20), "has 1,048,576 dimensions"),
    "shape": (after("token_embd.weight", 4, "Q", 1 << 62), "is cut off|lie on each other"),
    "type of a tensor": (after("token_embd.weight", 20, "I", 250), "has the type 250"),
    "place of a tensor": (after("blk.0.attn_q.weight", 24, "Q", 0), "lie on each other"),
    "another architecture": (lambda data: data.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lnaxa"), "GGUF"),
    "projector": (
        lambda data: data.replace(b"\x05\0\0\0\0\0\0\0model", b"\x06\0\0\0\0\0\0\0mmproj", 1),
        "is the projector of a model that sees or hears",
    ),
    "adapter": (
        lambda data: data.replace(b"\x05\0\0\0\0\0\0\0model", b"\x07\0\0\0\0\0\0\0adapter", 1),
        "holds no model: it says that it is of the type 'adapter'",
    ),
    "not finite": (lambda data: data[:-4000] + b"\xff" * 4000, "NaN or infinite"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_sentence_that_speaks_of_gguf(file: Path, name: str) -> None:
    change, message = BROKEN[name]
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(ModelError, match=message) as caught:
        load_model(ModelOptions(str(file)))
    text = str(caught.value)
    assert "gguf" in text.lower() and "\n" not in text and len(text) < 600
    assert "Error" not in text and "Exception" not in text


def test_a_part_of_a_model_says_how_to_join_it(tiny: str, tmp_path: Path) -> None:
    file = write_gguf(tiny, tmp_path / "x-00001-of-00003.gguf", **{"split.count": 3})
    with pytest.raises(ModelError, match=r"one of 3 parts of a model.*llama-gguf-split --merge"):
        read_header(file)


def test_several_files_in_a_folder_are_not_chosen_from(file: Path) -> None:
    shutil.copy(file, file.parent / "other.gguf")
    for read in (load_model, load_tokenizer, read_config):
        with pytest.raises(ModelError, match=r"holds 2 GGUF files.*--model .*other\.gguf"):
            read(ModelOptions(str(file.parent)))


def test_a_folder_with_safetensors_is_no_gguf_model(tiny: str, file: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "both")
    shutil.copy(file, folder)
    assert gguf_file(str(folder)) is None and gguf_file(str(file)) == file
    blob = file.rename(file.with_name("sha256-0f3a"))
    assert gguf_file(str(blob)) == blob


def test_without_the_package_the_command_that_installs_it_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.lm.gguf.model_file.find_spec", lambda name: None)
    for read in (load_model, load_tokenizer, read_config):
        with pytest.raises(ModelError, match=r'the package gguf is needed: pip install "curate-sft\[gguf\]"'):
            read(ModelOptions(str(file)))


def test_four_bits_are_refused(file: Path) -> None:
    pytest.importorskip("bitsandbytes")
    with pytest.raises(ModelError, match="is a GGUF file, whose weights cannot be loaded in the 4 bits"):
        load_model(ModelOptions(str(file), load_in_4bit=True))


def test_a_hostile_template_is_refused_as_in_other_tokenizers(tiny: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    hostile = "{{ cycler.__init__.__globals__.os.system('touch " + str(mark) + "') }}"
    file = write_gguf(tiny, tmp_path / "hostile.gguf", template=hostile)
    tokenizer = load_tokenizer(ModelOptions(str(file)))
    chat = Conversation(({"role": "user", "content": "x"},), None, str(tokenizer.chat_template), {}, "2026-11-29")
    with pytest.raises(RenderError, match="forbidden"):
        RENDERER.render(chat, [(1, False)], Budget())
    assert not mark.exists()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.gguf")
    with pytest.raises(ModelError):
        load_model(ModelOptions(str(tmp_path)))
