"""Nothing gets in with a model or a checkpoint, and no secret gets out with an artifact, a card or a message."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from curate.errors import ArtifactNotFound, CurateError, DataError, ModelError, StoreError
from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_model, load_tokenizer
from curate.runtime.redaction import redact, redacted
from curate.stages import make
from curate.store import Artifact, Store
from tests.support.exports import RunConfig
from tests.support.training import interrupted_at

SHARED_OPTIONS = {"candidates": 8, "keep": 4, "max_steps": 4, "max_length": 64, "save_steps": 2, "selector": "full"}


class Payload:
    """Unpickled, it leaves a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.place),)


@pytest.fixture
def pool(store: Store, pool_file: Path) -> Artifact:
    return make(store, "ingest", name="pool", data=[str(pool_file)])


# Checkpoints


@pytest.mark.parametrize("file", ["optimizer.pt", "rng_state.pth"])
def test_a_pickle_in_a_checkpoint_does_not_run(
    store: Store, pool: Artifact, tiny: str, tmp_path: Path, file: str
) -> None:

    with interrupted_at(4):
        make(store, "train", name="run", pool="pool", model=tiny, **SHARED_OPTIONS)
    (checkpoint,) = store.root.rglob("checkpoint-2")
    torch.save(Payload(tmp_path / "pwned"), checkpoint / file)
    try:
        make(store, "train", name="run", pool="pool", model=tiny, **SHARED_OPTIONS)
    except Exception as error:
        assert "weights_only" in str(error) or isinstance(error, (CurateError, pickle.UnpicklingError))
    assert not (tmp_path / "pwned").exists()


def test_optimizer_state_for_gradients_is_read_without_pickles(tiny: str, tmp_path: Path) -> None:
    from curate.training.gradients.features import state_of

    torch.save(Payload(tmp_path / "pwned"), tmp_path / "optimizer.pt")
    with pytest.raises(Exception, match=r"holds other objects than tensors"):
        state_of(tmp_path, load_model(ModelOptions(tiny)))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
def test_weights_as_pickles_are_not_read(tiny: str, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    if name.startswith("adapter"):
        from curate.lm.model.load import add_lora

        adapted = add_lora(load_model(ModelOptions(tiny)), r=2, alpha=4, dropout=0.0, target_modules="all-linear")
        adapted.save_pretrained(str(folder))  # type: ignore[operator]
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": tiny}))
    else:
        shutil.copytree(tiny, folder)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    torch.save(Payload(tmp_path / "pwned"), folder / name)
    with pytest.raises(Exception, match=r"(?i)safetensors|weights.only|pickle|no model could be loaded"):
        load_model(ModelOptions(str(folder)))
    assert not (tmp_path / "pwned").exists()


# Code that comes with a model


@pytest.mark.parametrize("known", [True, False], ids=["known architecture", "unknown architecture"])
def test_code_in_a_model_folder_does_not_run_unless_that_is_asked_for(tiny: str, tmp_path: Path, known: bool) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    mark = tmp_path / "ran"
    (folder / "evil.py").write_text(f"import os\nos.makedirs({str(mark)!r}, exist_ok=True)\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    config |= {} if known else {"model_type": "nobody-knows-it"}
    (folder / "config.json").write_text(json.dumps(config))
    about = json.loads((folder / "tokenizer_config.json").read_text())
    about |= {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}}
    about |= {} if known else {"tokenizer_class": "NobodyKnowsIt"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    for load in (load_tokenizer, load_model):
        try:
            load(ModelOptions(str(folder)))
        except ModelError as error:
            assert not known or load is load_tokenizer, error
    assert not mark.exists()
    with pytest.raises(Exception):  # noqa: B017 - it has none of the classes
        load_model(ModelOptions(str(folder), trust_remote_code=True))
    assert mark.exists(), "with --trust-remote-code it does: the test would notice if it ran"


# Names and places


@pytest.mark.parametrize("name", ["../outside", "../../x", "a/b", "/etc/passwd", "x" * 5000, "a\x00b", "..", ""])
def test_the_name_of_an_input_never_leaves_the_store(store: Store, pool: Artifact, name: str) -> None:
    (store.root.parent / "outside.json").write_text(json.dumps({"path": "../elsewhere", "fingerprint": "c1:x"}))
    assert not store.has(name)
    with pytest.raises(ArtifactNotFound):
        store.get(name)


@pytest.mark.parametrize("place", ["../elsewhere", "/tmp", "artifacts/../..", "names", "artifacts/ingest/../../../x"])
def test_a_pointer_that_leads_out_of_the_store_is_damaged(store: Store, pool: Artifact, place: str) -> None:
    pointer = store.root / "names" / "pool.json"
    pointer.write_text(json.dumps(json.loads(pointer.read_text()) | {"path": place}))
    with pytest.raises(StoreError, match="damaged"):
        store.get("pool")


@pytest.mark.parametrize("text", ["a\x00b", "x" * 5000, "~nobody-of-that-name/x", "label=~nobody-of-that-name/x"])
def test_what_can_be_no_path_is_said_so(store: Store, text: str) -> None:
    with pytest.raises(DataError):
        make(store, "ingest", name="pool", data=[text])


def test_a_row_that_names_a_path_writes_nothing_there(store: Store, tmp_path: Path) -> None:
    row = {"prompt": "q", "completion": "a", "id": "../../x", "sample_id": "/tmp/x", "source": "../y", "../z": 1}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    pool = make(store, "ingest", name="pool", data=[f"../../label={tmp_path / 'a.jsonl'}"])
    make(store, "export", name="out", sql="SELECT sample_id FROM samples", to=str(tmp_path / "out"))
    assert pool.summary["sources"] == {"../../label": 1}
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "store", "out"}


def test_an_export_to_a_link_is_an_error_that_names_where_it_leads(
    store: Store, pool: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    options = {"name": "out", "sql": "SELECT sample_id FROM samples", "overwrite": True}
    with pytest.raises(DataError, match=r"link is a link to .*real, .* give the path that it leads to"):
        make(store, "export", to=str(tmp_path / "link"), **options)
    assert (tmp_path / "link").is_symlink() and not any((tmp_path / "real").iterdir())
    make(store, "export", to=str(tmp_path / "link" / "sub"), **options)
    assert (tmp_path / "real" / "sub" / "README.md").is_file()


# Secrets


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("https://me:pa55@host/x.jsonl", "https://***@host/x.jsonl"),
        ("https://ghp_token@host/x", "https://***@host/x"),
        ("s3://key:secret@bucket/x", "s3://***@bucket/x"),
        ("abfss://container@account.dfs.core.windows.net/x", "abfss://container@account.dfs.core.windows.net/x"),
        ("https://h/x?a=1&token=abc&b=2", "https://h/x?a=1&token=***&b=2"),
        ("https://h/x?X-Amz-Signature=abc&X-Amz-Date=1", "https://h/x?X-Amz-Signature=***&X-Amz-Date=1"),
        ("https://h/x?sig=abc#access_token=y", "https://h/x?sig=***#access_token=***"),
        ("mine=https://a:b@h/x and https://h/y?key=z.", "mine=https://***@h/x and https://h/y?key=***"),
        ("hf://datasets/me/data@main/x.jsonl", "hf://datasets/me/data@main/x.jsonl"),
        ("login hf_abcdefghijklmnop", "login ***"),
        ("no secrets: a@b.c, token=x", "no secrets: a@b.c, token=x"),
        ("http:/me:pa55@host/x", "http:/***@host/x"),
        ("me:pa55@host/x and label=me:p@55@host", "***@host/x and label=***@host"),
        ("https://h/api?code=abc&encoding=utf8", "https://h/api?code=***&encoding=utf8"),
        ("https://hooks.h/services/T0/B0/aB1cD2eF3gH4iJ5kL6mN7oP8", "https://hooks.h/services/T0/B0/***"),
        ("https://h/d/resolve/" + "0a1b2c3d" * 5 + "/x", "https://h/d/resolve/" + "0a1b2c3d" * 5 + "/x"),
        ("hf://me/Meta-Llama-3-8B-Instruct-GGUF/x", "hf://me/Meta-Llama-3-8B-Instruct-GGUF/x"),
        (f"key {'AKIA' + 'ABCDEFGH12345678'}, {'ghp_' + 'a1B2' * 9}", "key ***, ***"),
        (f"{'sk-proj-' + 'a1B2c3D4' * 4} {'xoxb-' + '1234567890-abcdef'}", "*** ***"),
        (f"Authorization: Bearer {'a1B2c3D4' * 3}", "Authorization: Bearer ***"),
        (
            "risk-assessment-of-some-things-1 at 10:20:30, run@1a2b3c4d",
            "risk-assessment-of-some-things-1 at 10:20:30, run@1a2b3c4d",
        ),
    ],
)
def test_secrets_in_urls_are_not_said(text: str, kept: str) -> None:
    assert redacted(text) == kept
    assert redact({"a": [text, 1, None]}) == {"a": [kept, 1, None]}


def test_tokens_of_the_environment_are_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cr3t-of-mine")
    monkeypatch.setenv("WANDB_API_KEY", "w4ndb-of-mine")
    assert redacted("Bearer s3cr3t-of-mine / w4ndb-of-mine") == "Bearer *** / ***"


SECRETS = ("hf_verysecrettoken123", "pa55word", "querysecret")


def secrets_below(folder: Path) -> list[str]:
    return [
        f"{path}: {secret}"
        for path in folder.rglob("*")
        if path.is_file()
        for secret in SECRETS
        if secret.encode() in path.read_bytes()
    ]


def test_no_secret_is_in_store_cards_exports_or_output(
    curate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import fsspec

    monkeypatch.setenv("HF_TOKEN", SECRETS[0])
    system = fsspec.filesystem("memory")
    row = json.dumps({"prompt": "q", "completion": "a"})
    url = f"memory://me:{SECRETS[1]}@bucket/a.jsonl?token={SECRETS[2]}"
    system.pipe(system._strip_protocol(url), f"{row}\n{{broken\n".encode())
    outcomes = [curate("ingest", "--data", f"mine={url}", "--name", "pool")]
    outcomes += [curate("ingest", "--data", url + "-missing", "--name", "other")]
    outcomes += [curate("export", "--sql", "SELECT sample_id FROM samples", "--name", "out")]
    outcomes += [curate("query", "SELECT config FROM artifacts", "--format", "json"), curate("status")]
    outcomes += [curate("ingest", "--data", url, "--name", "../x")]
    assert [outcome.code for outcome in outcomes] == [0, 1, 0, 0, 0, 1]
    for outcome in outcomes:
        assert not any(secret in outcome.out + outcome.err for secret in SECRETS), outcome
    assert "***" in outcomes[3].out, "the config is stored without them"
    assert secrets_below(tmp_path) == []
    system.store.clear()


def test_what_reads_a_url_with_a_password_is_not_resumed_from_the_store(curate: Callable[..., Any]) -> None:
    def stop(draft: Any) -> None:
        raise KeyboardInterrupt

    config = RunConfig(name="begun", pool="x", model="https://me:pa55word@host/x")
    with pytest.raises(KeyboardInterrupt):
        Store("store").make("train", stop, config)
    outcome = curate("resume", "begun")
    assert outcome.code == 1 and "Run its command again" in outcome.err


@pytest.mark.parametrize(
    "command",
    [
        ("status", "--store", "http://me:pa55word@host/x"),
        ("run", "http://me:pa55word@host/x.yaml"),
        ("run", "me:pa55word@host/x.yaml"),
        ("train", "--config", "http://me:pa55word@host/x.yaml"),
        ("train", "--set", "pa55word"),
        ("train", "--set", "lora_r=[pa55word"),
        ("train", "--selector-args", "pa55word"),
        ("query", "SELECT $x", "--param", "pa55word"),
        ("ingest", "--name", "x", "--data", "https://host/api?code=pa55word"),
        ("export", "--name", "x", "--run", "me:pa55word@host"),
        ("inspect", "--pool", "https://host/?sig=pa55word", "--model", "m"),
    ],
)
def test_no_secret_of_a_command_line_is_in_an_error(curate: Callable[..., Any], command: tuple[str, ...]) -> None:
    result = curate(*command)
    assert result.code != 0 and "pa55word" not in result.out + result.err, result.err
