"""The commands that are run on a received store: the cheap ones on each, a share of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from tests.faults.stages import SHORT, STAGES, STEPS, UDS

TABLES = "SELECT table_name, count(*) AS n FROM information_schema.columns GROUP BY ALL ORDER BY ALL"
ROWS = (
    "SELECT * FROM samples JOIN artifacts ON samples.pool = artifacts.name ORDER BY ALL",
    "SELECT run, step, avg(score) AS score, count(*) AS n FROM ledger GROUP BY ALL ORDER BY ALL",
    "SELECT * FROM metrics, subsets LIMIT 50",
    "SELECT * FROM features ORDER BY ALL LIMIT 20",
    "SELECT count(*) AS n, max(step) AS last FROM ledger",
    TABLES,
)
PLAN = "--pool pool --model base --selector uds --candidates 4 --keep 2 --max-length 48"


@dataclass(frozen=True)
class Command:
    """A command line on a store.

    Attributes:
        name: its name in the table of outcomes.
        args: the arguments of `curate`.
        weight: how often it is drawn, relative to the others; 0: it runs on each store.
        writes: whether it may change the store; it then gets a copy of its own.
        environment: variables that are set for it.
    """

    name: str
    args: Sequence[str]
    weight: float = 1.0
    writes: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def needs_writing(self) -> bool:
        """Whether it refuses a store, or a working folder, that may not be written."""
        return self.writes or self.name in ("doctor", "plan", "report", "watch")


def _line(name: str, text: str, weight: float = 1.0, **options: bool) -> Command:
    return Command(name, text.split(), weight, **options)


READING = {"writes": False}
VERIFY = _line("verify", "verify", 0, **READING)
ALWAYS = (
    _line("status", "status", 0, **READING),
    VERIFY,
    _line("gc", "gc", 0, **READING),
    _line("doctor", "doctor", 0, **READING),
)
QUERIES = (
    *(Command("query", ["query", sql, "--format", "csv"], 1.0, writes=False) for sql in ROWS),
    Command("query", ["query", ROWS[0]], 1.0, writes=False),
    Command("query", ["query", ROWS[0], "--format", "parquet"], 0.3, writes=False),
    _line("questions", "query --list", 1.5, **READING),
    _line("question", "query most_kept --param run=run", 1.0, **READING),
    _line("question", "query many_turns --param turns=1", 1.0, **READING),
    _line(
        "question",
        "query near_duplicates --param clusters=groups --param least=0.5",
        1.0,
        **READING,
    ),
    _line("question", "query clusters --param clusters=groups", 1.0, **READING),
    _line("question", "query compare_runs --param runs=*", 1.0, **READING),
)
SHARED = (
    _line("verify one", "verify run", 1, **READING),
    _line("gc --drafts", "gc --drafts", 1, **READING),
    _line("gc --yes", "gc --yes", 2),
    _line("gc --yes --drafts", "gc --yes --drafts", 2),
    _line("repair", "repair", 2),
    _line("plan", f"doctor {PLAN}", 1, **READING),
    _line("inspect", f"inspect --pool pool --model base --samples 2 {SHORT}", 1, **READING),
    _line("inspect a model", f"inspect --pool pool --model model --samples 1 {SHORT}", 0.5, **READING),
    _line("report", "report run --to page.html --overwrite", 2, **READING),
    _line("docs", "docs --path", 0.2, **READING),
    _line("watch", "watch run --once page.html --overwrite", 1, **READING),
    _line("watch an end", "watch run", 0.5, **READING),
    _line("follow an end", "status run --follow", 0.5, **READING),
    _line("export", "export --run run --as hf --to out --name it", 1),
    _line("export by SQL", "export --sql WHERE --pool pool --as jsonl --to out --name it", 1),
    _line("evaluate", STAGES["evaluate"], 1),
    _line("attribute", STAGES["attribute"], 0.5),
    _line("merge", "merge --model run --name it", 0.5),
    _line("select", STAGES["select"], 0.7),
    _line("select tfidf", "select --method tfidf --pool pool --target held --budget 6 --name it", 0.7),
    _line("select k_center", "select --method k_center --pool pool --features feats --budget 6 --name it", 0.7),
    _line(
        "select column",
        "select --method column --set method_args.column=loss --pool pool --features feats --budget 6 --name it",
        0.5,
    ),
    *(
        _line(f"select {method}", f"select --method {method} --pool pool --features feats --budget 6 --name it", 0.3)
        for method in ("facility_location", "graph_cut")
    ),
    _line("cluster", STAGES["cluster"], 1),
    _line("curriculum", STAGES["curriculum"], 1),
    _line("subset", "subset --pool pool --from few --union order --name it", 1),
    _line("subset by SQL", "subset --pool pool --sql WHERE --name it", 0.7),
    _line("dedup", STAGES["dedup"], 0.7),
    _line("decontaminate", STAGES["decontaminate"], 0.7),
    _line("grade", STAGES["grade"], 0.7),
    _line("dedup against", "dedup --pool pool --against held --by exact --on answer --name it", 0.5),
    _line("dedup by vectors", "dedup --pool pool --by embedding --features feats --name it", 0.4),
    _line("dedup by a score", "dedup --pool pool --by exact --keep lowest:loss --features feats --name it", 0.4),
    _line("split", STAGES["split"], 0.5),
    _line(
        "advise",
        "advise --pool pool --model base --tokens 4e4 --dry-run --train max_length=48 --name it",
        0.2,
        **READING,
    ),
    _line("embed", STAGES["embed"], 0.7),
    _line("embed --dry-run", f"{STAGES['embed']} --dry-run", 0.2, **READING),
    _line("embed before", f"embed --pool pool --model run --before feats --signals loss,ifd --name it {SHORT}", 0.5),
    _line("ingest", STAGES["ingest"], 0.7),
    _line("demo-pool", STAGES["demo-pool"], 0.3),
    _line("demo-model", STAGES["demo-model"], 0.1),
    _line("compare", STAGES["compare"], 0.1),
    _line("train again", f"train --pool pool --name run {UDS} {STEPS} --max-steps 4", 1),
    _line("train", f"train --pool pool --eval-pool held --name it {UDS} {STEPS} --max-steps 2 --seed 1", 0.7),
    _line("train a folder", f"train --pool pool --name it {UDS} {STEPS} --max-steps 1".replace("base", "model"), 0.5),
    _line("train part", f"train --pool pool --name part {UDS} {STEPS} --max-steps 4 --seed 3", 0.7),
    _line("resume part", "resume part", 1),
    _line("resume half", "resume half", 1),
    _line("run", "run pipeline.yaml", 0.7),
    Command(
        "complete",
        [],
        1,
        writes=False,
        environment={"_CURATE_COMPLETE": "complete_bash", "COMP_WORDS": "curate report ", "COMP_CWORD": "2"},
    ),
    Command(
        "complete",
        [],
        0.5,
        writes=False,
        environment={"_CURATE_COMPLETE": "complete_bash", "COMP_WORDS": "curate resume ", "COMP_CWORD": "2"},
    ),
)
SQL = "SELECT sample_id FROM samples WHERE pool = 'pool'"
EVERY = tuple(
    Command(each.name, [SQL if word == "WHERE" else word for word in each.args], each.weight, each.writes)
    if "WHERE" in each.args
    else each
    for each in (*ALWAYS, *QUERIES, *SHARED)
)
READ_BY: Mapping[str, Sequence[str]] = {
    "model": (
        "inspect",
        "inspect a model",
        "embed",
        "train",
        "train a folder",
        "evaluate",
        "select",
        "plan",
        "run",
        "merge",
    ),
    "checkpoints": ("resume part", "train part", "select", "attribute", "evaluate", "repair", "gc --yes --drafts"),
    "drafts": (
        "resume part",
        "resume half",
        "gc --yes --drafts",
        "gc --drafts",
        "train part",
        "complete",
    ),
    "catalogue": ("query", "question", "report", "export by SQL", "repair", "curriculum", "ingest"),
    "fragments": (
        "query",
        "question",
        "report",
        "watch",
        "watch an end",
        "follow an end",
        "ingest",
        "repair",
        "curriculum",
    ),
    "tables": ("cluster", "embed", "export", "report", "query", "question", "train", "select k_center", "inspect"),
    "queries": ("questions", "question", "complete"),
    "names": ("complete", "gc --yes", "report", "export", "train again"),
    "indexes": ("question", "cluster", "report", "repair"),
}
"""Kind of mutation -> names of the commands that read what it changes; they are drawn more often."""


def drawn(rng: Random, kind: str, count: int, *, quick: bool = False) -> list[Command]:
    """Return the commands for a store: all cheap ones, a query, and `count` of the others; the reading ones first.

    If it has to be quick, these are `curate verify` and one other.
    """
    pool = [each for each in EVERY if each.weight]
    weights = [each.weight * (6 if each.name in READ_BY.get(kind, ()) else 1) for each in pool]
    if quick:
        return sorted((VERIFY, *rng.choices(pool, weights)), key=lambda each: each.writes)
    chosen: dict[str, Command] = {}
    query = rng.choice([each for each in EVERY if each.name in ("query", "question", "questions")])
    while len(chosen) < count:
        (each,) = rng.choices(pool, weights)
        chosen[each.name] = each
    chosen[query.name] = query
    return sorted((*ALWAYS, *chosen.values()), key=lambda each: each.writes)
