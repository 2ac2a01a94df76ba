"""Results: HTML in which text of pools is text only, pictures, and rows for other libraries."""

from __future__ import annotations

import html.parser
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from curate import Artifact, Store, make
from curate import store as store_package
from curate.api.results import html as pages
from curate.api.results import pictures
from curate.api.results.answer import Answer
from curate.api.results.shown import Rows
from curate.errors import ConfigError, QueryError
from curate.stages.stage import Stage
from curate.store import Draft
from curate.store.catalog.limits import Limits
from curate.store.ledger.rows import SCHEMA
from tests.conftest import ToyConfig
from tests.support.fake_runs import RunConfig

HOSTILE = '</td><script>alert("x")</script><img src=x onerror=alert(1)>\x1b[2J'


class Tags(html.parser.HTMLParser):
    """Collects the tags of a page, and the ends that no tag of it has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.wrong += [name for name, _ in attrs if name.startswith("on")]
        if tag != "br":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def tags_of(page: str) -> set[str]:
    """Return the tags of a well-formed page without a script or a handler."""
    reader = Tags()
    reader.feed(page)
    assert reader.wrong == [] and reader.open == [] and not {"script", "img", "iframe"} & reader.tags
    assert "\x1b" not in page
    return reader.tags


@pytest.fixture
def mine(tmp_path: Path) -> Store:
    """A store with a pool whose text and labels are hostile, and a run over it."""
    store = Store(tmp_path / "store")
    rows = [{"prompt": f"{HOSTILE} {n}", "completion": HOSTILE} for n in range(4)]
    pd.DataFrame(rows).to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    store.ingest(data=[f"<script>={tmp_path / 'rows.jsonl'}", f"b={tmp_path / 'rows.jsonl'}"], name="pool")
    return store


def test_a_result_is_the_artifact_and_its_rows_are_its_sql(mine: Store, tmp_path: Path) -> None:
    pool = mine.ingest(data=[f"<script>={tmp_path / 'rows.jsonl'}", f"b={tmp_path / 'rows.jsonl'}"], name="pool")
    plain = store_package.Store(mine.root).get("pool")
    assert isinstance(pool, Artifact) and not pool.fresh and pool == plain and plain == pool
    assert isinstance(mine, store_package.Store)
    assert pool.arrow().num_rows == pool.rows == 8 and pool.arrow().equals(mine.query(pool.sql).arrow())
    assert isinstance(pool.df(), pd.DataFrame) and list(pool.df()["pool"].unique()) == ["pool"]
    assert mine.result("pool") == pool == make(mine, "ingest", **{**pool.config})
    assert "rows      8" in str(pool)


def test_hostile_text_is_text_in_every_page(mine: Store, tiny: str) -> None:
    shown = [
        mine.result("pool"),
        mine.query("SELECT source, count(*) AS n FROM samples GROUP BY ALL ORDER BY source"),
        mine.query("SELECT * FROM conversations"),
        mine.inspect(pool="pool", model=tiny, samples=8),
        mine.status(),
        mine.questions(),
        mine.tables(),
        mine.verify(),
        Rows(HOSTILE, [HOSTILE], [{HOSTILE: HOSTILE}], query=HOSTILE, notes=[HOSTILE]),
    ]
    found = [tags_of(result._repr_html_()) for result in shown]
    assert all("svg" in tags for tags in (found[0], found[1], found[3], found[4]))
    assert "mark" in found[3] and "&lt;script&gt;" in shown[3]._repr_html_()
    assert tags_of(mine._repr_html_()) == found[4]


def test_a_run_is_drawn_from_its_ledger_and_its_metrics(mine: Store) -> None:
    rows = [{"step": 1 + n // 2, "rank": 0, "slot": n % 2, "sample_id": f"s{n}", "position": n, "kept": n % 2 == 0,
             "loss": 4.0 - n / 4} for n in range(8)]  # fmt: skip
    logged = [{"step": 2, "metric": "loss", "value": 3.0}, {"step": 4, "metric": "eval_loss", "value": 2.5}]

    def fill(draft: Draft) -> None:
        draft.add("ledger", pa.Table.from_pylist(rows, schema=SCHEMA))
        draft.add("metrics", pa.Table.from_pylist(logged))

    mine.make("train", fill, RunConfig(name="run", pool="pool"), {"pool": mine.get("pool").fingerprint})
    page = mine.result("run")._repr_html_()
    assert "svg" in tags_of(page)
    assert all(f">{name}</text>" in page for name in ("candidates", "kept", "training", "held-out"))
    assert mine.result("run").arrow()["step"].to_pylist() == [1, 1, 2, 2, 3, 3, 4, 4]


def test_an_answer_is_used_as_the_arrow_table_that_it_was(mine: Store) -> None:
    sql = "SELECT position AS x, position * 2 AS y FROM samples ORDER BY x"
    answer = mine.query(sql)
    table = store_package.Store(mine.root).query(sql)
    assert answer == table and answer == mine.query(sql) and answer.to_pylist() == table.to_pylist()
    assert (answer.num_rows, len(answer), answer["y"][3].as_py(), answer.column_names) == (8, 8, 6, ["x", "y"])
    assert pa.table(answer).equals(table) and answer.df().equals(table.to_pandas()) and answer.sql == sql
    assert "polyline" in answer._repr_html_()
    assert mine.query("SELECT 1 AS a, 2 AS a")._repr_html_().count("<th>a") == 2


def test_a_query_takes_questions_files_and_limits(mine: Store, tmp_path: Path) -> None:
    (tmp_path / "mine.sql").write_text("SELECT count(*) AS n FROM samples WHERE pool = $pool")
    assert mine.query(str(tmp_path / "mine.sql"), {"pool": "pool"}).to_pylist() == [{"n": 8}]
    asked = mine.questions().df().set_index("name")
    assert "never_kept" in asked.index and asked.loc["never_kept", "asks"].startswith(
        "Which candidates did a run never keep"
    )
    answer = mine.query("never_kept", {"run": "none"})
    assert len(answer) == 0 and answer.sql == asked.loc["never_kept", "sql"]
    with pytest.raises(QueryError, match=r"no saved question 'never_kep'\. Did you mean 'never_kept'"):
        mine.query("never_kep")
    with pytest.raises(QueryError, match="stdin"):
        mine.query("-")
    with pytest.raises(ConfigError, match="not both"):
        mine.query("SELECT 1", limits=Limits(), timeout=3)
    with pytest.raises(ConfigError, match="no size of memory"):
        mine.query("SELECT 1", memory="much")
    assert mine.query("SELECT 1 AS x", timeout=60).to_pylist() == [{"x": 1}]


def test_options_take_results_and_paths_and_refuse_what_was_replaced(mine: Store, toy: Any, tmp_path: Path) -> None:
    first = mine._make("toy", {"name": "t", "rows": 2, "parent": mine.result("pool")})
    second = mine._make("toy", {"name": "t", "rows": 3, "data": [tmp_path / "rows.jsonl"], "parent": "pool"})
    assert first.inputs["parent"] == mine.result("pool").fingerprint and second.rows == 3
    assert mine._make("toy", {"name": "u", "parent": second}).config["parent"] == "t"
    with pytest.raises(ConfigError, match="no finished artifact 't' of this fingerprint"):
        mine._make("toy", {"name": "v", "parent": first})
    assert "FROM artifacts WHERE name = 't'" in second.sql and len(second.arrow()) == 1


def test_the_store_is_listed_with_what_is_stale_and_unfinished(mine: Store, toy: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        mine._make("toy", {"name": "t", "options": {"fail_at": 1}})
    mine._make("toy", {"name": "u", "parent": "pool"})
    mine.ingest(data=[str(mine.root.parent / "rows.jsonl")], name="pool")
    rows = mine.status().df().set_index("name")
    assert rows["state"].to_dict() == {**dict.fromkeys(rows.index, "made"), "t": "unfinished", "u": "stale"}
    assert (
        rows.loc["u", "stale"] == "parent 'pool' has been made again" and "curate resume t" in rows.loc["t", "resume"]
    )
    resumed = mine.resume("t")
    assert resumed.fresh and resumed.rows == 3
    with pytest.raises(ConfigError, match="has no steps"):
        toy.run = lambda *given: (_ for _ in ()).throw(KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            mine._make("toy", {"name": "w", "rows": 7})
        mine.resume("w", on_step=print)
    assert mine.gc(drafts=True).df()["what"].tolist() != [] and not mine.gc(drafts=True).df()["removed"].any()
    assert mine.gc(yes=True, drafts=True).df()["removed"].all() and len(mine.gc(drafts=True)) == 0
    assert len(mine.verify()) == len(mine.verify("u")) == len(mine.repair()) == 0


def test_a_plan_makes_nothing_and_a_pipeline_gives_its_results(mine: Store, tiny: str, tmp_path: Path) -> None:
    plan = mine.embed(pool="pool", model=tiny, dry_run=True)
    assert "would be measured" in str(plan) and len(mine.artifacts()) == 1 and "pre" in tags_of(plan._repr_html_())
    (tmp_path / "p.yaml").write_text(
        f"stages:\n  - ingest: {{name: again, data: [{tmp_path / 'rows.jsonl'}]}}\n"
        "  - query: {sql: \"SELECT count(*) AS n FROM samples WHERE pool = 'again'\"}\nnext: [go on]\n"
    )
    done = mine.run(tmp_path / "p.yaml", sets=["again.deduplicate=true"])
    assert done.df()["state"].tolist() == ["made", "answered"] and done.notes == ["", "go on"]
    assert done["again"].config["deduplicate"] and done["sql"].to_pylist() == [{"n": 4}]
    tags_of(done._repr_html_())
    (tmp_path / "p.yaml").write_text("stages:\n  - query: {sql: SELECT 1, allow_files: true}\n")
    with pytest.raises(ConfigError, match="asks to let its SQL read files outside the store"):
        mine.run(tmp_path / "p.yaml")
    assert mine.run(tmp_path / "p.yaml", allow_files=True)["sql"].num_rows == 1


def test_a_file_of_options_gives_no_power_to_make(mine: Store, toy: Any, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("rows: 5\nname: t\n")
    assert make(mine, "toy", config=tmp_path / "c.yaml").rows == 5
    assert make(mine, "toy", config=tmp_path / "c.yaml", rows=2, name="u").rows == 2
    (tmp_path / "e.yaml").write_text("pool: pool\nmodel: m\ntrust_remote_code: true\n")
    with pytest.raises(ConfigError, match="asks to run code that comes with the model"):
        make(mine, "embed", config=tmp_path / "e.yaml")


def test_the_doctor_has_findings_as_rows(mine: Store) -> None:
    found = mine.doctor()
    assert found.data["ok"] == found.ok and {"software", "devices", "store"} <= set(found.data)
    assert set(found.df()["verdict"]) <= {"fine", "note", "wrong"} and "svg" in tags_of(found._repr_html_())
    with pytest.raises(ConfigError, match="needs its model"):
        mine.doctor(pool="pool")


def test_pictures_leave_out_what_is_not_finite_and_are_empty_without_anything() -> None:
    assert pictures.bars([], title="t") == pictures.bars([("a", float("nan"))], title="t") == ""
    assert pictures.lines({"a": [(1.0, float("inf"))]}, title="t", x="x") == ""
    drawn = pictures.bars([("a", 1.0), ("b", -1.0), ("c", float("inf"))], title="t")
    assert drawn.count("<rect") == 2 and ">c</text>" not in drawn
    assert 'width="125.0"' in drawn, drawn  # both as long: half of what is left of the labels and numbers
    line = pictures.lines({"a": [(1.0, 2.0)], "b": [(float(x), 1.0) for x in range(1000)]}, title="t", x="x")
    assert line.count("<polyline") == 2 and len(line) < 20_000
    tags_of(pictures.lines({HOSTILE: [(1.0, 2.0)]}, title=HOSTILE, x=HOSTILE))


def test_long_tables_and_cells_are_cut_in_pages_alone() -> None:
    rows = Rows("t", ["a"], [{"a": "x" * 1000}] * 50)
    assert rows._repr_html_().count("<tr>") == 1 + pages.SHOWN_ROWS and "and 30 more rows" in rows._repr_html_()
    assert len(rows._repr_html_()) < 10_000 and rows.df()["a"].str.len().tolist() == [1000] * 50


def test_a_busy_catalogue_is_a_note_in_a_page_not_an_error(mine: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from curate.errors import CatalogueBusy

    def busy(*_: object, **__: object) -> None:
        raise CatalogueBusy("another process writes <now>")

    pool = mine.result("pool")
    monkeypatch.setattr(store_package.Store, "query", busy)
    assert "No picture: another process writes &lt;now&gt;" in pool._repr_html_()


def test_the_import_is_light_and_prints_nothing(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom curate import Store\nheavy = {'torch', 'transformers', 'pandas', 'datasets'}\n"
        "assert not heavy & set(sys.modules)\nstore = Store('store')\nstore.demo_pool(name='p', rows=5)\n"
        "store.status()\nassert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout == "", done.stderr


def test_the_answer_of_an_empty_table_is_shown() -> None:
    assert "table" in tags_of(Answer(pa.table({"a": []}), "SELECT")._repr_html_())


def test_a_stage_of_the_toy_has_the_config_of_the_toy(toy: Any) -> None:
    assert isinstance(toy.STAGE, Stage) and toy.STAGE.config is ToyConfig


def test_a_parameter_of_a_query_takes_a_result_and_a_wrong_limit_is_a_sentence(tmp_path: Path) -> None:
    store = Store(tmp_path / "own")
    made = store.demo_pool(name="few", rows=20)
    (row,) = store.query("SELECT name FROM artifacts WHERE name = $made", {"made": made}).to_pylist()
    assert row == {"name": "few"}
    with pytest.raises(ConfigError, match="timeout is a number of seconds above 0, not -1"):
        store.query("SELECT 1", timeout=-1)
