"""Tests of `curate doctor`: it names what is missing or broken with a remedy, and estimates a run without weights."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from curate.doctor import devices, packages, storage
from curate.doctor.devices import Device
from curate.doctor.examine import examine
from curate.doctor.finding import Finding, as_data, failures, lines
from curate.doctor.plan import PlannedRun, Resources, counted, estimate, load_of, steps_of
from curate.lm.model.memory import estimate_memory
from curate.runtime.distributed import cores
from curate.store import Store

Call = Callable[..., Any]
GIB = 1 << 30


def found(findings: list[Finding], what: str) -> Finding:
    return next(finding for finding in findings if finding.what == what)


# Software


def declare(monkeypatch: pytest.MonkeyPatch, *lines_: str) -> None:
    monkeypatch.setattr(packages, "requires", lambda name: list(lines_))


def test_every_package_is_named_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, "numpy>=2", 'pytest>=9; extra == "eval"', "duckdb>=2.0", 'curses; sys_platform == "win32"')
    lines_ = packages.software()
    assert [finding.what for finding in lines_] == ["python", "curate", "numpy", "duckdb", "[eval]"]
    assert found(lines_, "numpy").message == version("numpy") and not failures({"": lines_})
    assert found(lines_, "[eval]").message == f"pytest {version('pytest')}"


def test_what_is_missing_too_old_or_broken_says_how_to_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, "no-such-thing>=1", "numpy>=99", "duckdb>=2", 'no-such>=3; extra == "quantized"')
    monkeypatch.setitem(packages.TRIED, "duckdb", "tests.no_such_module")
    lines_ = packages.software()
    assert {finding.what for finding in failures({"": lines_})} == {"no-such-thing", "numpy", "duckdb"}
    assert found(lines_, "no-such-thing").advice == "pip install 'no-such-thing>=1'"
    assert found(lines_, "numpy").message == f"{version('numpy')}, but curate needs >=99"
    assert "cannot be imported: No module named" in found(lines_, "duckdb").message
    extra = found(lines_, "[quantized]")
    assert extra.verdict == "fine" and extra.message == "no-such missing: --load-in-4bit"
    assert extra.advice == 'pip install "curate-sft[quantized]"'


def test_faiss_for_cpus_is_enough_and_the_one_for_gpus_is_not_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, 'numpy; extra == "faiss"', 'no-such; extra == "gpu"')
    assert [finding.what for finding in packages.software()][2:] == ["[faiss]"]


def test_a_torch_that_cannot_be_imported_is_reported_and_the_other_checks_still_run(tmp_path: Path) -> None:
    (tmp_path / "broken" / "torch").mkdir(parents=True)
    (tmp_path / "broken" / "torch" / "__init__.py").write_text("raise OSError('libcudart.so.12: not found')")
    command = [sys.executable, "-m", "curate", "doctor", "--json"]
    own = {"PYTHONPATH": str(tmp_path / "broken")}
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **own}, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    data = json.loads(done.stdout)
    assert not data["ok"] and {"software", "devices", "store", "planned_run"} <= set(data)
    assert "libcudart.so.12" in next(line["message"] for line in data["software"] if line["what"] == "torch")
    assert any(line["what"] == "cpu" for line in data["devices"])
    assert "libcudart.so.12" in data["planned_run"][0]["message"]


# Devices


def test_a_container_has_the_memory_that_it_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = devices.memory()
    assert 0 < whole.free <= whole.total
    for text, total in (("max\n", whole.total), (f"{GIB}\n", GIB), (f"{1 << 62}\n", whole.total)):
        (tmp_path / "memory.max").write_text(text)
        monkeypatch.setattr(devices, "CGROUP", (tmp_path / "none", tmp_path / "memory.max"))
        assert devices.memory().total == total and devices.memory().free <= total


def test_cores_are_counted_where_the_system_knows_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cores() == os.cpu_count()


def test_a_driver_that_fails_is_a_finding_and_not_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Any:
        raise RuntimeError("CUDA driver version is insufficient")

    monkeypatch.setattr(devices, "_gpus", fail)
    lines_, device = devices.detect()
    assert found(lines_, "gpu").verdict == "wrong" and "insufficient" in found(lines_, "gpu").message
    assert device.kind == "cpu"


# Store


def test_the_state_of_the_store_is_reported(tmp_path: Path) -> None:
    from curate.config import Config

    root = tmp_path / "store"
    assert "there is none" in found(storage.check(root), "store").message and not root.exists()
    Store(root).make("ingest", lambda draft: None, Config(name="a"))
    about = storage.check(root)
    assert not failures({"": about}) and found(about, "store").details["artifacts"] == 1
    assert found(about, "disk").details["free_bytes"] == pytest.approx(shutil.disk_usage(root).free, rel=0.2)
    (root / "store.json").write_text('{"schema_version": 99}')
    assert "newer curate" in found(failures({"": storage.check(root)}), "store").message


def test_the_process_that_holds_the_catalogue_is_named(tmp_path: Path) -> None:
    from curate.config import Config

    store = Store(tmp_path / "store")
    store.make("ingest", lambda draft: None, Config(name="a"))
    hold = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(store.catalog.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        line = found(storage.check(store.root), "catalogue")
        holder.communicate()
    assert line.verdict == "note" and f"process {holder.pid}" in line.message
    assert found(storage.check(store.root), "catalogue").verdict == "fine"


# Planned runs


@pytest.fixture
def pool(store: Store, pool_file: Path) -> Store:
    from curate.stages import make

    make(store, "ingest", name="pool", data=[str(pool_file)])
    return store


def resources(total: int = 64 * GIB, disk: int = 100 * GIB, kind: Any = "cuda") -> Resources:
    return Resources(Device(kind, f"{kind}:0", total, total), Device("cpu", "cpu", 64 * GIB, 64 * GIB), disk)


@pytest.mark.parametrize("full", [True, False])
def test_weights_are_counted_without_being_there(tiny: str, tmp_path: Path, full: bool) -> None:
    from curate.lm.model.config_checks import ModelOptions
    from curate.lm.model.load import add_lora, load_model

    model = load_model(ModelOptions(tiny))
    weights = sum(p.numel() for p in model.parameters())
    if not full:
        model = add_lora(model, r=8, alpha=16, dropout=0.0, target_modules="all-linear")
    trained = weights if full else sum(p.numel() for p in model.parameters() if p.requires_grad)
    bare = tmp_path / "bare"
    shutil.copytree(tiny, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    shape = counted(PlannedRun(model=str(bare), full=full), Store(tmp_path / "store"))
    assert (shape.weights, shape.trained, shape.width) == (weights, trained, 4)


@pytest.mark.parametrize(("name", "words"), [("llama", "share a row"), ("lfm2", "mixes the texts"), ("bloom", "mixes")])
def test_whether_texts_can_share_a_row_is_said_without_weights(
    name: str, words: str, tiny: str, store: Store, tmp_path: Path
) -> None:
    from tests.support.families import family

    family(name).config.save_pretrained(tmp_path)  # type: ignore[union-attr, operator]
    for file in Path(tiny).glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_bytes((Path(tiny) / "chat_template.jinja").read_bytes())
    findings = estimate(PlannedRun(model=str(tmp_path)), store.root, resources())
    assert words in found(findings, "batches").message
    if name != "llama":
        assert found(findings, "batches").verdict == "note"
        findings = estimate(PlannedRun(model=str(tmp_path), batching="packed"), store.root, resources())
        assert found(findings, "batches").verdict == "wrong"
    findings = estimate(PlannedRun(model=str(tmp_path), batching="padded"), store.root, resources())
    assert all(finding.what != "batches" for finding in findings)


def test_more_of_anything_takes_more(tiny: str, store: Store) -> None:
    def peak(**options: Any) -> int:
        usual = {"selector": "uds", "candidates": 32, "keep": 8, "max_length": 128}
        config = PlannedRun(model=tiny, **{**usual, **options})
        shape = counted(config, store)
        return estimate_memory(shape, load_of(config, shape, resources().device))["peak"]

    plain = peak()
    assert peak(full=True) > plain < peak(max_length=512)
    assert peak(keep=16) >= plain > peak(per_device_train_batch_size=1, score_batch_tokens=128)
    assert peak(selector="full", gradient_checkpointing=True) < peak(selector="full")
    assert peak(selector="greats", target="t") > peak(selector="random")


def test_a_run_that_fits_says_so_and_one_that_does_not_what_to_change(tiny: str, pool: Store) -> None:
    config = PlannedRun(model=tiny, pool="pool", selector="uds", candidates=64, keep=64, max_length=512, full=True)
    good = estimate(config, pool.root, resources())
    assert not failures({"": good}) and "fits: about" in found(good, "memory").message
    need = found(good, "memory").details["needed_bytes"]
    small = found(estimate(config, pool.root, resources(total=need // 2)), "memory")
    assert small.verdict == "wrong" and "does not fit: about" in small.message
    assert "--per-device-train-batch-size 1" in small.advice and "It fits with" in small.advice
    least = found(estimate(config, pool.root, resources(total=1 << 20)), "memory")
    assert "either: use a smaller model" in least.advice
    assert steps_of(config, 120) == 2
    assert found(good, "ledger").details == {"bytes": 2 * 64 * 130, "steps": 2}
    full = [finding for finding in estimate(config, pool.root, resources(disk=1000)) if finding.what == "disk"]
    assert full[0].verdict == "wrong" and "--save-total-limit" in full[0].advice


def test_a_model_that_is_not_on_this_machine_is_an_error_and_the_network_is_not_used(
    curate: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def refuse(*args: Any, **_: Any) -> Any:
        asked.append(args)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    result = curate("doctor", "--model", "nobody/no-such-model", "--pool", "pool")
    assert result.code == 1 and "curate doctor uses no network" in result.out
    assert not asked


def test_the_command_prints_all_findings_and_exits_with_1_if_a_run_would_stop(
    curate: Call, tiny: str, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text(f"name: r\npool: pool\nmodel: {tiny}\nselector: random\nmax_length: 64\n")
    result = curate("doctor", "c.yaml", "--json")
    data = json.loads(result.out)
    assert result.code == 1 and not data["ok"]
    (pool_line,) = [line for line in data["planned_run"] if line["verdict"] == "wrong"]
    assert "nothing named 'pool'" in pool_line["message"]
    assert "give --model" in curate("doctor", "--keep", "8").err
    plain = curate("doctor")
    assert plain.out.splitlines()[0] == "Software" and "Planned" not in plain.out


def test_findings_are_the_same_in_text_and_in_json() -> None:
    sections = {"Devices": [Finding("cpu", "fine"), Finding("gpu", "broken", "wrong", "Fix it.", {"n": 1})]}
    assert lines(sections)[-2:] == ["Problems (1):", "  gpu: broken. Fix it."]
    assert as_data(sections)["devices"][1]["details"] == {"n": 1} and not as_data(sections)["ok"]
    assert examine(Path("none"))["Store"]


# Estimates against measurements

MEASURED = """
import gc, json, os, sys
from pathlib import Path
import torch
from curate.demo.model import build_model, save, train_tokenizer
from curate.doctor.devices import memory
from curate.doctor.plan import PlannedRun, counted, load_of
from curate.runtime.distributed import cores
from curate.lm.model.memory import estimate_memory
from curate.stages import make
from curate.store import Store
import curate.training.run, curate.stages.train

tokenizer = train_tokenizer(0, 400)
model = build_model(tokenizer, hidden_size=384, layers=4, heads=6, positions=128)
model.resize_token_embeddings(8000)
save(model, tokenizer, Path("m"))
del model
rows = [{"instruction": "add 1", "input": "", "output": "1 2 3 4 5 6 7 8 9 " * 20 + str(i)} for i in range(8)]
Path("pool.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
store = Store("store")
make(store, "ingest", data=["pool.jsonl"], name="pool")
values = dict(pool="pool", model="m", candidates=8, keep=8, max_length=128, max_steps=1, selector="full")
values |= {"batching": "padded"}  # the estimate is of padded texts; packed, these texts with one beginning take less
values |= json.loads(sys.argv[1])
config = PlannedRun(**values)
shape = counted(config, store)
expected = estimate_memory(shape, load_of(config, shape, memory()))["peak"]

def status(key):
    return int(next(line for line in Path("/proc/self/status").open() if line.startswith(key)).split()[1]) * 1024

gc.collect()
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
before = status("VmRSS")
make(store, "train", name="r", **values)
saved = sum(file.stat().st_size for file in Path("store").glob("artifacts/train/*/checkpoints/*/*"))
taken = {"expected": expected, "measured": status("VmHWM") - before, "saved": saved, "trained": shape.trained}
print(json.dumps(taken))
"""

FACTOR = 1.8
"""Estimates are within this factor of what a run was seen to take, either way."""


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux can reset the peak memory of a process"
)
@pytest.mark.parametrize("options", [{"full": True}, {}], ids=["full", "lora"])
def test_an_estimate_is_near_what_a_run_takes(options: dict[str, Any], tmp_path: Path) -> None:
    command = [sys.executable, "-c", MEASURED, json.dumps(options)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["measured"] / FACTOR < seen["expected"] < seen["measured"] * FACTOR, seen
    state = 3 * 4 * seen["trained"]
    assert state <= seen["saved"] < 1.1 * state + (4 << 20), "weights that train and Adam's two moments"
