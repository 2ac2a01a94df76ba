"""Laws of consent: no file gives power; the command line does, and what it allows is said on stderr."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from curate.api.commands.inspection import InspectConfig
from curate.api.commands.pipelines import QueryEntry, read
from curate.config import EXTERNAL, POWER, REF, Options
from curate.doctor.plan import PlannedRun
from curate.errors import ConfigError
from curate.lm.templates.named import TEMPLATES
from curate.stages import STAGES, make, stage_of
from curate.stages.consent import OWN_TEMPLATES, POWERS, Consent, PowerRequest, check, flags_of, power_requests
from curate.store import Store
from tests.support.paths import ROOT

Call = Callable[..., Any]

CONFIGS: dict[str, type[Options]] = {
    **{stage: stage_of(stage).config for stage in STAGES},
    "inspect": InspectConfig,
    "query of a pipeline": QueryEntry,
    "doctor": PlannedRun,
}

NAMES = """
adam_beta1 adam_beta2 answer_column apply_chat_template as_json at attn_implementation backend batch_size batching
bf16 budget budget_tokens by candidate_losses candidates choices_column columns controls d1 d2 date deduplicate
default_tasks direction dtype duplicates engine eps_mode eval_steps even feature_precision file file_format format
fresh fsdp full generate_batch_size gradient_budget gradient_checkpointing gradient_coverage head_refresh_steps heads
hidden_size index iterations jobs k keep layers learning_rate licence limit load_in_4bit logging_steps
logits_budget_mb lora_alpha lora_dropout lora_r lora_target_modules loss_on lr_scheduler_type max_bad_samples
max_grad_norm max_length max_new_tokens max_steps memory metadata_columns method method_args metric min_times_kept
mix mix_by mix_policy mix_smoothing mix_unit mix_warmup_steps replay_share
n_clusters name nearest neighbours never_offered noise num_fewshot num_train_epochs on optim order threshold pad_token
params
per_device_train_batch_size per_source_quota pool_selector pool_selector_args pool_selectors positions precision_steps
prescreen prescreen_by prescreen_miss process_timeout projection projection_dim redo representatives reselect roles
rounds rows sample sample_id samples save_steps save_total_limit scope score_batch_size score_batch_tokens seed seeds
selection_budget selector selector_args selectors sequence sequence_length shard_rows signals silhouette_sample size
sketch_dim sketch_seed split sql step steps strict subset subset_budget take target_batch_size tasks timeout
torch_compile train train_batch_tokens trainer turns update vocab_size warmup warmup_steps weight_column weight_decay
weights workers apply dry_run flops methods part share shares time tokens vector
answer checkpoints per_token query_memory_mb text top
"""
WITHOUT_POWER = set(NAMES.split())
"""Fields that were looked at and found to give no power: they run no foreign code that is not installed, and neither
read nor write outside the store, nor send anything away. Inputs (`EXTERNAL`, `REF`) are what the user names."""


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_of_every_config_was_looked_at(name: str) -> None:
    config = CONFIGS[name]
    powers = set(config.fields_with(POWER))
    inputs = {*config.fields_with(EXTERNAL), *config.fields_with(REF)}
    unknown = set(config.model_fields) - powers - inputs - WITHOUT_POWER
    assert not unknown, (
        f"Does {unknown} run code, read or write outside the store, or send data away? Then give it the role POWER and "
        "add it to POWERS; otherwise list it in WITHOUT_POWER."
    )
    assert powers == set(config.model_fields) & set(POWERS), "the role POWER and POWERS name different fields"
    assert not powers & WITHOUT_POWER


def test_every_power_is_a_field_and_known_templates_are_the_same() -> None:
    fields = {field for config in CONFIGS.values() for field in config.fields_with(POWER)}
    assert fields == set(POWERS) and set(TEMPLATES) == set(OWN_TEMPLATES)


@pytest.mark.parametrize("name", CONFIGS)
def test_defaults_ask_for_nothing(name: str) -> None:
    values = {key: field.default for key, field in CONFIGS[name].model_fields.items() if not field.is_required()}
    assert not list(power_requests(values)) and not list(power_requests(values, draft=True))


VALUES = {
    "trust_remote_code": True,
    "task_folder": "/tmp/tasks",
    "allow_files": True,
    "chat_template": "/elsewhere/x.jinja",
    "to": "s3://bucket/x",
    "overwrite": True,
    "push_to_hub": "me/x",
    "private": False,
    "report_to": "wandb",
}


@pytest.mark.parametrize("above", ["", "train", "selectors"])
@pytest.mark.parametrize("key", [key for key, power in POWERS.items() if not power.withheld])
def test_a_file_gives_no_power_and_the_command_line_does(
    key: str, above: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("curate"), "propagate", True)
    value = VALUES[key]
    values: dict[str, Any] = {"": {key: value}, "train": {"train": {key: value}}}.get(above) or {
        "selectors": [{"selector": "x", "train": {key: value}}]
    }
    with pytest.raises(ConfigError, match=f"The draft of 'x' asks to .*{key}.* add --"):
        check(values, Consent(), "The draft of 'x'", draft=True)
    other = not value if isinstance(value, bool) else f"{value}-other"
    with pytest.raises(ConfigError, match="never from a file"):
        check(values, Consent({key: other}), "The draft of 'x'", draft=True)
    with caplog.at_level("INFO"):
        check(values, Consent({key: [value] if isinstance(value, str) else value}), "The draft of 'x'", draft=True)
    assert "The draft of 'x' asks to" in caplog.text and "allows it" in caplog.text


def test_overwriting_is_off_unless_the_command_line_asks_for_it(caplog: pytest.LogCaptureFixture) -> None:
    assert check({"overwrite": True}, Consent(), "p.yaml") == {"overwrite": False}
    assert check({"overwrite": True}, Consent({"overwrite": True}), "p.yaml") == {}


def test_a_pipeline_replaces_no_files_of_others_unless_the_command_line_says_so(
    curate: Call, store: Store, pool_file: Path, tmp_path: Path
) -> None:
    make(store, "ingest", name="pool", data=[str(pool_file)])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    entry = {"name": "out", "sql": "SELECT sample_id FROM samples", "to": "out", "overwrite": True}
    (tmp_path / "p.yaml").write_text(json.dumps({"stages": [{"export": entry}]}))
    refused = curate("run", "p.yaml")
    assert refused.code == 1 and (tmp_path / "out" / "thesis.txt").exists()
    assert "without --overwrite curate does not" in refused.err and "is left alone" in refused.err
    assert curate("run", "p.yaml", "--overwrite").code == 0 and (tmp_path / "out" / "README.md").exists()


@pytest.mark.parametrize("to", ["/etc/x", "~/x", "../x", "a/../../x", "file:///x", "s3://b/x"])
def test_a_draft_writes_to_no_place_outside_the_working_folder(to: str) -> None:
    assert [request.key for request in power_requests({"to": to}, draft=True)] == ["to"]
    assert not list(power_requests({"to": "exports/x"}, draft=True))


def test_what_one_process_was_allowed_it_tells_its_own_processes() -> None:
    assert flags_of({"trust_remote_code": True, "report_to": "wandb", "private": False, "seed": 1}) == [
        *("--trust-remote-code", "--report-to", "wandb", "--no-private")
    ]
    assert PowerRequest("train.report_to", "report_to", "wandb").words(nested=True) == [
        *("--set", "train.report_to=wandb")
    ]


def test_each_tracker_of_a_list_needs_consent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    values = {"report_to": ("tensorboard", "mlflow", "wandb")}
    assert [each.value for each in power_requests(values)] == ["wandb"]
    assert [each.value for each in power_requests(values, draft=True)] == ["mlflow", "wandb"]
    with pytest.raises(ConfigError, match=r"add --report-to mlflow --report-to wandb\.$"):
        check(values, Consent({"report_to": ["tensorboard"]}), "The draft of 'x'", draft=True)
    check(values, Consent({"report_to": ["mlflow,wandb"]}), "The draft of 'x'", draft=True)
    nested = {"train": {"report_to": ["mlflow", "wandb"]}}
    with pytest.raises(ConfigError, match=r"--set 'train\.report_to=\[mlflow,wandb\]'"):
        check(nested, Consent(), "The config x")
    check(nested, Consent({"report_to": ["mlflow", "wandb"]}), "The config x")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://tracker.example")
    assert [each.value for each in power_requests(values)] == ["mlflow", "wandb"]


@pytest.mark.parametrize("file", sorted((ROOT / "pipelines").glob("*.yaml")), ids=lambda file: file.stem)
def test_pipelines_of_ours_need_no_consent(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for entry in read(file):
        options = entry.config or entry.query
        assert options is not None and not list(power_requests(options.model_dump()))


# Commands


@pytest.fixture
def code(tiny: str, tmp_path: Path) -> tuple[str, Path]:
    """A model that comes with code, and the folder that its code makes when it runs."""
    folder, mark = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(tiny, folder)
    (folder / "theirs.py").write_text(f"import os\nos.makedirs({str(mark)!r}, exist_ok=True)\nraise SystemExit(0)\n")
    for name, key in (("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")):
        content = json.loads((folder / name).read_text())
        classes = ["theirs.X", "theirs.X"] if key == "AutoTokenizer" else "theirs.X"
        (folder / name).write_text(json.dumps({**content, "auto_map": {key: classes}}))
    return str(folder), mark


SHAPE = {"pool": "pool", "candidates": 8, "keep": 4, "max_steps": 2, "max_length": 64, "selector": "full"}


def flags(values: dict[str, Any]) -> list[str]:
    return [word for key, value in values.items() for word in (f"--{key.replace('_', '-')}", str(value))]


@pytest.fixture
def begun(curate: Call, store: Store, pool_file: Path, code: tuple[str, Path]) -> Store:
    """A store as it is received: with a draft `run` of a model with code, which asks to run it."""
    make(store, "ingest", name="pool", data=[str(pool_file)])
    command = ["train", "--name", "run", "--model", code[0], *flags(SHAPE), "--trust-remote-code"]
    assert curate(*command).code == 1, "the code of the model ends the process"
    shutil.rmtree(code[1])
    assert json.loads(next(store.root.rglob("draft.json")).read_text())["config"]["trust_remote_code"] is True
    return store


def test_resume_runs_code_of_a_model_only_if_this_command_says_so(
    curate: Call, begun: Store, code: tuple[str, Path]
) -> None:
    refused = curate("resume", "run")
    assert refused.code == 1 and not code[1].exists()
    assert "The draft of 'run' asks to run code that comes with the model" in refused.err
    assert "add --trust-remote-code." in refused.err
    allowed = curate("resume", "run", "--trust-remote-code")
    assert code[1].exists() and "--trust-remote-code allows it" in allowed.err
    assert f"reads from outside the store: model = {code[0]}" in allowed.err
    assert allowed.code == 1, "the code ends the process: that is no success"


@pytest.mark.parametrize("way", ["pipeline", "config in a pipeline", "config"])
def test_a_pipeline_or_a_config_runs_code_of_a_model_only_if_this_command_says_so(
    curate: Call, store: Store, pool_file: Path, code: tuple[str, Path], tmp_path: Path, way: str
) -> None:
    make(store, "ingest", name="pool", data=[str(pool_file)])
    values = {**SHAPE, "name": "run", "model": code[0], "trust_remote_code": True}
    (tmp_path / "c.yaml").write_text(json.dumps(values))
    entry = {"config": "c.yaml"} if way == "config in a pipeline" else values
    (tmp_path / "p.yaml").write_text(json.dumps({"stages": [{"train": entry}]}))
    command = ["train", "--config", "c.yaml"] if way == "config" else ["run", "p.yaml"]
    refused = curate(*command)
    assert refused.code == 1 and not code[1].exists()
    assert "asks to run code that comes with the model" in refused.err and "--trust-remote-code" in refused.err
    allowed = curate(*command, "--trust-remote-code")
    assert code[1].exists() and "--trust-remote-code allows it" in allowed.err


@pytest.mark.parametrize("stage", ["embed", "evaluate", "inspect", "train"])
def test_a_stage_that_loads_a_model_with_code_needs_the_flag(
    curate: Call, store: Store, pool_file: Path, code: tuple[str, Path], stage: str
) -> None:
    make(store, "ingest", name="pool", data=[str(pool_file)])
    command = [stage, "--pool", "pool", "--model", code[0], *([] if stage == "inspect" else ["--name", "x"])]
    curate(*command)
    assert not code[1].exists()
    curate(*command, "--trust-remote-code")
    assert code[1].exists(), "with the flag it runs: the test would notice if it ran without"


def test_a_pipeline_reads_files_with_sql_only_if_this_command_says_so(
    curate: Call, store: Store, tmp_path: Path
) -> None:
    from curate.config import Config

    store.make("ingest", lambda draft: None, Config(name="a"))
    (tmp_path / "secret.csv").write_text("x\n7\n")
    query = {"sql": f"SELECT * FROM read_csv('{tmp_path}/secret.csv')", "allow_files": True}
    (tmp_path / "p.yaml").write_text(json.dumps({"stages": [{"query": query}]}))
    refused = curate("run", "p.yaml")
    assert refused.code == 1 and "asks to let its SQL read files outside the store" in refused.err
    allowed = curate("run", "p.yaml", "--allow-files")
    assert allowed.code == 0 and "7" in allowed.out and "--allow-files allows it" in allowed.err


def test_resume_delivers_an_export_only_where_this_command_says(
    curate: Call, store: Store, pool_file: Path, tmp_path: Path
) -> None:
    make(store, "ingest", name="pool", data=[str(pool_file)])
    (tmp_path / "work").mkdir()
    sql = "SELECT sample_id FROM samples"
    made = make(store, "export", name="out", sql=sql, to=str(tmp_path / "first"))
    draft = json.loads((made.path / "artifact.json").read_text())
    for key in ("rows", "summary", "made_at"):
        draft.pop(key)
    draft["config"] |= {"to": str(tmp_path / "theirs"), "overwrite": True}
    (made.path / "artifact.json").unlink()
    (made.path / "draft.json").write_text(json.dumps(draft))
    refused = curate("resume", "out")
    assert refused.code == 1 and not (tmp_path / "theirs").exists()
    assert f"add --to {tmp_path / 'theirs'}." in refused.err
    assert curate("resume", "out", "--to", str(tmp_path / "theirs"), "--overwrite").code == 0
    assert (tmp_path / "theirs").exists()
