"""Jobs of Slurm make what a pipeline makes without them: their order, their scripts, and the parts of an array."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from curate.errors import ConfigError
from curate.executors.slurm.order import Step, dependencies
from curate.executors.slurm.resources import read_assignments, resources
from curate.executors.slurm.script import RESTARTS, SlurmJob
from curate.stages import build_config, run_part
from curate.store import Store
from tests.support.slurm import Slurm

Call = Callable[..., Any]


def pipeline(folder: Path, tiny: str, pool_file: Path) -> None:
    common = {"pool": "pool", "model": tiny, "max_length": 64}
    stages = [
        {"ingest": {"name": "pool", "data": [str(pool_file)]}},
        {"ingest": {"name": "heldout", "data": [f"held={pool_file}"]}},
        {"embed": {**common, "name": "feats", "shard_rows": 16, "d1": 4, "d2": 16}},
        {"train": {**common, "name": "run", "eval_pool": "heldout", "candidates": 8, "keep": 4, "max_steps": 2}},
        {"query": {"sql": "SELECT run, count(*) AS n FROM ledger GROUP BY ALL"}},
    ]
    (folder / "p.yaml").write_text(yaml.safe_dump({"stages": stages}))


def submit(curate: Call, slurm: Slurm, *words: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(slurm.python))
        return curate("run", "p.yaml", *words)


def files(store: Store, name: str) -> dict[str, bytes]:
    """The shards of an artifact, and the records that were merged of it."""
    path = store.get(name).path
    return {str(each.relative_to(path)): each.read_bytes() for each in sorted(path.rglob("*.parquet"))}


def test_the_jobs_of_a_pipeline_make_what_it_makes_without_slurm(
    curate: Call, slurm: Slurm, tiny: str, pool_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline(tmp_path, tiny, pool_file)
    submitted = submit(curate, slurm, "--slurm", "partition=gpu,time=1:00:00", "--slurm", "embed.array=3%2")
    assert submitted.code == 0, submitted.err
    jobs = slurm.jobs()
    assert [(job.number, job.after) for job in jobs] == [
        *[(100, []), (101, []), (102, [100]), (103, [102]), (104, [100, 101]), (105, [103, 104])]
    ]
    assert submitted.out.splitlines()[2] == "102  03-embed-feats-parts  after 100"
    assert [job.options.get("array") for job in jobs] == [None, None, "0-2%2", None, None, None]
    assert all({"partition", "time", "requeue", "signal", "output"} <= job.options.keys() for job in jobs)
    answers = []

    def act(words: list[str], environment: dict[str, str]) -> int:
        monkeypatch.setenv("CURATE_STORE", environment["CURATE_STORE"])
        done = curate(*words)
        answers.append(done.out)
        assert done.code == 0, done.err
        return int(done.code)

    assert all(slurm.run(job, act) for job in jobs)
    monkeypatch.delenv("CURATE_STORE")
    serial = curate("run", "p.yaml", "--store", "serial")
    assert serial.code == 0, serial.err
    one, other = Store(tmp_path / "store"), Store(tmp_path / "serial")
    assert {a.name: a.fingerprint for a in one.artifacts()} == {a.name: a.fingerprint for a in other.artifacts()}
    assert len(files(one, "feats")) > 8 and files(one, "feats") == files(other, "feats")
    assert (
        files(one, "run")["merged/ledger/000000001-r0.parquet"]
        == (files(other, "run")["merged/ledger/000000001-r0.parquet"])
    )
    assert "run" in answers[-1] and answers[-1].splitlines()[:5] == serial.out.splitlines()[:5]
    again = submit(curate, slurm, "--slurm", "partition=gpu")
    assert [line.split()[1] for line in again.out.splitlines()] == ["05-query-sql"]
    assert again.err.count("is finished: it needs no job") == 4


def test_a_part_does_its_share_and_finishes_nothing(store: Store, curate: Call, tiny: str, pool_file: Path) -> None:
    pool = build_config("ingest", {"name": "pool", "data": [str(pool_file)]})
    with pytest.raises(ConfigError, match="The work of ingest cannot be shared by jobs: leave out --part"):
        run_part(store, "ingest", pool, 0, 2)
    for text in ("2/2", "1", "-1/2", "a/b"):
        Path("p.yaml").write_text(f"stages: [ingest: {{name: pool, data: ['{pool_file}']}}]")
        refused = curate("run", "p.yaml", "--part", text)
        assert refused.code == 1 and "--part needs K/N with K from 0 and below N" in refused.err
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dry-run"], "--dry-run prints the scripts of jobs: give --slurm, too"),
        (["--slurm", "a=b", "--part", "0/2"], "leave out one of them"),
        (["--slurm", "partition"], "--slurm needs key=value, such as partition=gpu, not 'partition'"),
        (["--slurm", "partitoin=gpu"], "Did you mean 'partition'"),
        (["--slurm", "output=/x"], "--slurm output: this is no option that can be given"),
        (["--slurm", "firts.time=1"], "The pipeline has no stage and makes nothing of this name. Did you mean 'first'"),
        (["--slurm", "array=4"], "array shares the work of embed, and the pipeline has none"),
        (["--slurm", "first.nodes=2"], "toy runs in one process, so give it one node"),
        (["--slurm", "partition=a\n#SBATCH --wrap=x"], "holds a quote, a backslash, a # or a control character"),
    ],
)
def test_what_cannot_be_submitted_is_an_error(
    curate: Call, toy: ModuleType, slurm: Slurm, words: list[str], message: str
) -> None:
    Path("p.yaml").write_text("stages:\n- toy: {name: first}\n")
    refused = submit(curate, slurm, *words)
    assert refused.code == 1 and message.lower() in refused.err.lower() and not slurm.jobs()
    assert refused.err.count("\n") == 1 and not list(Path().glob("store*"))


def test_an_sbatch_that_refuses_or_is_not_there_is_an_error(
    curate: Call, toy: ModuleType, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("p.yaml").write_text("stages:\n- toy: {name: first}\n- toy: {name: second, parent: first}\n")
    monkeypatch.setenv("SBATCH_REFUSES", "second")
    refused = submit(curate, slurm, "--slurm", "partition=gpu")
    assert refused.code == 1
    assert "sbatch refuses the job 02-toy-second: sbatch: error: invalid partition specified: gpu." in refused.err
    assert "Cancel the 1 jobs before it: scancel 100." in refused.err
    (slurm.folder / "scancel").write_text(f'#!/bin/sh\necho "$@" > "{slurm.folder}/cancelled"\n')
    (slurm.folder / "scancel").chmod(0o755)
    assert "The 1 jobs before it are cancelled." in submit(curate, slurm, "--slurm", "partition=gpu").err
    assert (slurm.folder / "cancelled").read_text() == "101\n"
    (slurm.folder / "sbatch").write_text("#!/bin/sh\necho no number\n")
    assert "sbatch answers 'no number' in place of the number" in submit(curate, slurm, "--slurm", "mem=1G").err
    monkeypatch.setenv("PATH", "/nowhere")
    refused = submit(curate, slurm, "--slurm", "partition=gpu")
    assert refused.code == 1 and "There is no sbatch on the PATH" in refused.err


def test_a_dry_run_prints_the_scripts_and_writes_nothing(
    curate: Call, toy: ModuleType, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("p.yaml").write_text("stages:\n- toy: {name: first}\n- toy: {name: second, parent: first}\n")
    monkeypatch.setenv("PATH", "/nowhere")
    printed = submit(curate, slurm, "--slurm", "partition=gpu", "--slurm", "second.mem=8G", "--dry-run")
    assert printed.code == 0 and printed.err == ""
    assert printed.out.count("#!/bin/bash") == 2 and printed.out.count("#SBATCH --partition=gpu") == 2
    assert printed.out.count("#SBATCH --mem=8G") == 1 and "02-toy-second.sh after 01-toy-first" in printed.out
    assert not list(Path().glob("store*")) and not slurm.jobs()


HOSTILE = "a b'; $(touch hacked) `touch hacked` & %j é"


def test_hostile_paths_stay_words(slurm: Slurm, tmp_path: Path) -> None:
    workdir = tmp_path / HOSTILE
    workdir.mkdir()
    given = resources([], "train", "run", distributed=True)
    job = SlurmJob(
        "01-x", workdir, str(slurm.python), ["run", HOSTILE, "x\ny"], given, workdir, {"CURATE_STORE": HOSTILE}
    )
    with pytest.raises(ConfigError, match="The path of the store holds a quote"):
        _ = job.text
    safe = tmp_path / HOSTILE.replace("'", "")
    safe.mkdir()
    job = SlurmJob("01-x", safe, str(slurm.python), ["run", HOSTILE, "x\ny"], given, workdir, {"CURATE_STORE": HOSTILE})
    job.path.write_text(job.text)
    assert '#SBATCH --output="' in job.text and "%%j é/01-x.%j.log" in job.text
    recorded = tmp_path / "recorded.json"
    done = subprocess.run(["bash", job.path], env={"RECORDED": str(recorded), "PATH": "/usr/bin:/bin"}, cwd="/")
    assert done.returncode == 0
    command = yaml.safe_load(recorded.read_text())
    assert command["words"] == ["-m", "curate", "run", HOSTILE, "x\ny"] and command["folder"] == str(workdir)
    assert command["environment"]["CURATE_STORE"] == HOSTILE
    assert not list(tmp_path.rglob("hacked")) and not Path("/hacked").exists()


def script(*pairs: str, stage: str = "train") -> str:
    found = resources(read_assignments(pairs, {stage}), stage, "run", distributed=True)
    return SlurmJob("01-x", Path("/store.slurm/p"), "/venv/bin/python", ["run", "x.yaml"], found, Path("/w"), {}).text


def test_several_gpus_and_nodes_are_a_launch_of_torchrun() -> None:
    assert "\n/venv/bin/python -m curate run x.yaml &\n" in script()
    assert "\n/venv/bin/python -m curate run x.yaml &\n" in script("gpus-per-node=1")
    one = "\n/venv/bin/python -m torch.distributed.run --nproc-per-node 4 --standalone -m curate run x.yaml &\n"
    for pair in ("gpus-per-node=4", "gpus-per-node=a100:4", "gres=gpu:a100:4", "train.gres=gpu:4"):
        assert one in script(pair)
    two = script("nodes=2,gpus-per-node=8")
    assert "srun --nodes=2 --ntasks-per-node=1 /venv/bin/python -m torch.distributed.run --nproc-per-node 8" in two
    assert '--cpus-per-task="$SLURM_CPUS_PER_TASK"' in script("nodes=2,cpus-per-task=8")
    assert "--nnodes 2" in two and "#SBATCH --ntasks-per-node=1" in two and '--rdzv-endpoint "${hosts[0]}:' in two
    for text in (one, two, script("exclusive=")):
        if text.startswith("#!"):
            assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    with pytest.raises(ConfigError, match="gives each job one process, and run has 4"):
        script("embed.array=3,embed.gpus-per-node=4", stage="embed")
    with pytest.raises(ConfigError, match="only the work of embed can be shared by an array, not that of train"):
        resources(read_assignments(["run.array=2"], {"embed", "run"}), "train", "run", distributed=True)
    with pytest.raises(ConfigError, match="array=2 replaces --engine ray"):
        resources(read_assignments(["array=2"], {"embed"}), "embed", "run", distributed=False)
    with pytest.raises(ConfigError, match="nodes needs a whole number from 1, not 'two'"):
        script("nodes=two")


def test_processes_must_divide_the_candidates(curate: Call, slurm: Slurm, tmp_path: Path) -> None:
    pipeline(tmp_path, "model", tmp_path / "rows.jsonl")
    refused = submit(curate, slurm, "--slurm", "train.gpus-per-node=3", "--dry-run")
    assert refused.code == 1 and "gives train run 3 processes, and its keep (4) and candidates (8)" in refused.err


def test_jobs_get_the_consent_of_the_command_line_and_their_files_are_private(
    curate: Call, slurm: Slurm, tmp_path: Path
) -> None:
    pipeline(tmp_path, "model", tmp_path / "rows.jsonl")
    asking = (tmp_path / "p.yaml").read_text().replace("name: run\n", "name: run\n    trust_remote_code: true\n")
    (tmp_path / "p.yaml").write_text(asking)
    refused = submit(curate, slurm, "--slurm", "partition=gpu")
    assert refused.code == 1 and "asks to run code that comes with the model" in refused.err and not slurm.jobs()
    assert submit(curate, slurm, "--slurm", "partition=gpu", "--trust-remote-code").code == 0
    asks = [job.script.name for job in slurm.jobs() if ".yaml --trust-remote-code &" in job.script.read_text()]
    assert asks == ["04-train-run.sh"]
    for path in slurm.jobs()[0].script.parent.iterdir():
        assert path.stat().st_mode & 0o077 == 0


STUB = """\
trap 'echo stopped; exit 143' TERM
echo started
sleep 30 > /dev/null 2>&1 & wait $!
"""


@pytest.mark.parametrize("restarts", [0, RESTARTS])
def test_a_job_near_its_time_limit_goes_back_into_the_queue(tmp_path: Path, restarts: int) -> None:
    for name, text in (("python", STUB), ("scontrol", f'echo "$@" > {shlex.quote(str(tmp_path / "requeued"))}\n')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}")
        (tmp_path / name).chmod(0o755)
    given = resources([], "train", "run", distributed=True)
    job = SlurmJob("01-x", tmp_path, str(tmp_path / "python"), ["run"], given, tmp_path, {})
    job.path.write_text(job.text)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(restarts)}
    started = subprocess.Popen(
        ["bash", job.path], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert started.stdout is not None and started.stdout.readline() == "started\n"
    started.send_signal(signal.SIGUSR1)
    out, err = started.communicate(timeout=60)
    assert out == "stopped\n" and started.returncode == 1
    if restarts < RESTARTS:
        assert (tmp_path / "requeued").read_text() == "requeue 7\n" and "then resumes" in err
    else:
        assert not (tmp_path / "requeued").exists() and "give --slurm time more" in err


# Order


def step(stage: str, label: str, *refs: str, **options: Any) -> Step:
    values = {"name": label, "inputs": list(refs), **options}
    return Step(stage, label, values, frozenset(refs), frozenset({label, *options.get("writes", ())}))


@pytest.mark.parametrize(
    "sql",
    ["SELECT 1", "(SELECT sample_id FROM subsets) LIMIT 5", "/* rest */ FROM subsets", "-- a\n\nVALUES ('x')", "q"],
)
def test_an_entry_with_sql_waits_for_all_and_all_wait_for_it(sql: str) -> None:
    steps = [step("ingest", "a", data="x"), step("subset", "s", "b", sql=sql), step("ingest", "c", data="y")]
    assert dependencies(steps, frozenset({"b"})) == [[], [0], [1]]
    steps[1] = step("train", "s", "b", mix_by=f"sql:{sql}", sql=None)
    assert dependencies(steps, frozenset({"b"})) == [[], [0], [1]]


def test_a_cancelled_job_does_not_go_back_into_the_queue(tmp_path: Path) -> None:
    job = SlurmJob("01-x", tmp_path, "python", ["run"], resources([], "train", "run", distributed=True), tmp_path, {})
    assert (
        "#SBATCH --signal=B:USR1@120\n" in job.text
        and "trap stop USR1\n" in job.text
        and "trap stop TERM" not in job.text
    )


def test_an_entry_waits_for_what_it_reads_and_nothing_else() -> None:
    steps = [
        step("ingest", "a", data="x"),
        step("ingest", "b", data="y"),
        step("train", "t", "a"),
        step("dedup", "d", "b"),
    ]
    assert dependencies(steps) == [[], [], [0], [1]]
    chain = [step("ingest", "a"), step("embed", "e", "a", model="m"), step("cluster", "c", "a", "e")]
    assert dependencies(chain) == [[], [0], [1]]


@pytest.mark.parametrize(
    ("first", "second", "waits"),
    [
        (step("ingest", "a", data="x"), step("train", "t", data=["math=a"]), True),
        (step("train", "t"), step("embed", "e", model="t"), True),
        (step("compare", "c"), step("ingest", "a"), True),
        (step("ingest", "a"), step("query", "q", sql="SELECT 1"), True),
        (step("export", "x", sql="-- why\nSELECT 1"), step("ingest", "b"), True),
        (step("curriculum", "x", order="sql:f.sql"), step("ingest", "b"), True),
        (step("export", "x", writes=("exports/x",)), step("ingest", "b", data=["exports/x/data.jsonl"]), True),
        (step("train", "t", "a"), step("ingest", "a", data="other"), True),
        (step("ingest", "a", data="x"), step("ingest", "a", data="y"), True),
        (step("ingest", "a", data="x"), step("ingest", "b", data="x"), True),
        (step("embed", "e", model="m", pool="p"), step("embed", "f", model="m", pool="q"), True),
        (step("embed", "e", model="m", pool="p"), step("embed", "f", model="n", pool="q"), False),
        (step("select", "e", warmup="m", pool="p"), step("select", "f", warmup="m", pool="q"), True),
        (step("ingest", "a", data="x"), step("train", "t", "unknown"), True),
        (step("train", "s", seed=1), step("train", "t", seed=2), False),
    ],
)
def test_entries_run_side_by_side_only_if_their_order_cannot_matter(first: Step, second: Step, waits: bool) -> None:
    assert dependencies([first, second]) == [[], [0] if waits else []]


def test_what_the_store_has_needs_no_entry() -> None:
    steps = [step("ingest", "a", data="x"), step("train", "t", "mine")]
    assert dependencies(steps, frozenset({"mine"})) == [[], []]
