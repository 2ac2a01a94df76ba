"""Sentence encoders give the vectors of their libraries, and a folder cannot make them run or read anything else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from curate.errors import ModelError
from curate.lm import sentence_encoders
from curate.lm.sentence_encoders import load_encoder

TEXTS = ["Add 1 and 2.", "what is it?", "count " * 30, "Say it!", "count " * 100]


def test_vectors_of_sentence_transformers_are_the_means_of_its_hidden_states(sentence_encoder: str) -> None:
    from transformers import AutoModel, AutoTokenizer

    found = load_encoder(sentence_encoder, max_length=512)(TEXTS, batch_size=2)
    tokenizer, model = AutoTokenizer.from_pretrained(sentence_encoder), AutoModel.from_pretrained(sentence_encoder)
    for row, text in enumerate(TEXTS):
        ids = tokenizer(text)["input_ids"]
        kept = ids[:40]
        with torch.no_grad():
            wanted = model(torch.tensor([kept])).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(found.vectors[row], wanted, atol=1e-5)
        assert (found.tokens[row], found.truncated[row]) == (len(kept), len(ids) > 40)
    assert found.vectors.dtype == np.float32 and found.truncated.tolist() == [False, False, False, False, True]
    assert load_encoder(sentence_encoder, max_length=10)(TEXTS, 8).tokens.max() == 10


def test_vectors_of_model2vec_are_the_means_of_its_rows(static_encoder: str) -> None:
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    encoder = load_encoder(static_encoder, max_length=20)
    found = encoder([*TEXTS, "unheard words"], batch_size=2)
    rows = load_file(Path(static_encoder) / "model.safetensors")["embeddings"]
    tokenizer = Tokenizer.from_file(str(Path(static_encoder) / "tokenizer.json"))
    unknown = tokenizer.token_to_id("<unk>")
    assert encoder.dimension == 16 and found.tokens[-1] == 0 and not found.vectors[-1].any()
    for row, text in enumerate(TEXTS):
        ids = [token for token in tokenizer.encode(text).ids if token != unknown]
        kept = ids[: found.tokens[row]]
        np.testing.assert_allclose(found.vectors[row], rows[kept].mean(0), atol=1e-5)
        assert found.truncated[row] == (len(kept) < len(ids)) and len(kept) <= 20
    assert found.truncated.tolist() == [False, False, True, False, True, False]


def test_a_static_model_is_read_by_sentence_transformers_too_and_is_cut_there(
    sentence_encoder: str, static_encoder: str, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(static_encoder, device="cpu").save(str(tmp_path / "st"), create_model_card=False)
    theirs = load_encoder(str(tmp_path / "st"), max_length=40)(TEXTS, 8)
    ours = load_encoder(static_encoder, max_length=512)(TEXTS, 8)
    np.testing.assert_allclose(theirs.vectors[:4], ours.vectors[:4], atol=1e-5)
    assert theirs.tokens.tolist()[4] == 40 and theirs.truncated.tolist() == [False] * 4 + [True]


def change(folder: Path, name: str, edit: Callable[[Any], Any]) -> None:
    path = folder / name
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda f: change(f, "modules.json", lambda m: [{**m[0], "type": "os.system"}]),
            "names the module 'os.system'",
        ),
        (
            lambda f: change(f, "modules.json", lambda m: [{**m[0], "type": "sentence_transformers.models.CNN"}]),
            r"names the module 'sentence_transformers\.models\.CNN'",
        ),
        (lambda f: change(f, "modules.json", lambda m: [m[0], {**m[1], "path": "../../x"}]), "outside its own"),
        (lambda f: change(f, "modules.json", lambda m: {}), "does not hold a JSON list"),
        (lambda f: change(f, "modules.json", lambda m: [1]), "names the module 'None'"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "merge it into its base model first"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pytorch_model.bin is a pickle"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\0" * 64), "cut off or not a safetensors file"),
        (
            lambda f: change(
                f, "config.json", lambda c: {**c, "auto_map": {"AutoModel": "evil.Evil"}, "model_type": "x"}
            ),
            "Cannot load an encoder",
        ),
        (
            lambda f: change(
                f, "sentence_bert_config.json", lambda c: {**c, "model_kwargs": {"attn_implementation": "a/b"}}
            ),
            "names 'a/b' as attn_implementation",
        ),
        (lambda f: (f / "modules.json").unlink(), "is no sentence encoder: it has no modules.json"),
    ],
)
def test_a_folder_that_is_no_safe_encoder_is_one_sentence(
    edit: Callable[[Path], Any], message: str, sentence_encoder: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(sentence_encoder, tmp_path / "copy"))
    edit(folder)
    with pytest.raises(ModelError, match=message):
        load_encoder(str(folder), max_length=64)


def test_an_activation_that_is_not_of_torch_is_refused(sentence_encoder: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense

    model = SentenceTransformer(sentence_encoder, device="cpu")
    model.append(Dense(24, 8))
    model.save(str(tmp_path / "dense"), create_model_card=False)
    assert load_encoder(str(tmp_path / "dense"), max_length=64).dimension == 8
    change(tmp_path / "dense" / "2_Dense", "config.json", lambda c: {**c, "activation_function": "os.getcwd"})
    with pytest.raises(ModelError, match=r"names the function 'os\.getcwd', which is not of torch\.nn"):
        load_encoder(str(tmp_path / "dense"), max_length=64)


def test_an_encoder_that_is_not_here_is_not_downloaded(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'nobody/nothing' is not on this machine.*hf download nobody/nothing"):
        load_encoder("nobody/nothing", max_length=64)
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="an encoder is a folder"):
        load_encoder(str(tmp_path / "file"), max_length=64)


STATIC = save({"embeddings": np.zeros((2, 2), np.float32)}).decode("latin-1")


@pytest.mark.parametrize(
    ("files", "package"),
    [
        ({"modules.json": "[]"}, "sentence-transformers"),
        ({"config.json": "{}", "tokenizer.json": "{}", "model.safetensors": STATIC}, "model2vec"),
    ],
)
def test_without_the_extra_the_error_names_it(
    files: dict[str, str], package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="latin-1")
    monkeypatch.setattr(sentence_encoders, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=rf'needs the package {package}: pip install "curate-sft\[encoders\]"'):
        load_encoder(str(tmp_path), max_length=64)
