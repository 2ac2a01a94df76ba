"""Tests of the server of `curate watch`: who may read it, and when it ends. No browser is needed."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from curate import Store
from curate.errors import ConfigError, StoreError
from curate.watch import run_state as module
from curate.watch.access import is_token, new_token, refusal
from curate.watch.follower import RunFollower
from curate.watch.server import listen
from tests.support.live_runs import LiveRun
from tests.support.reports import HOSTILE, data_in
from tests.support.watch_pages import Watch, watched

Call = Callable[..., Any]


@pytest.fixture
def run(store: Store) -> LiveRun:
    return LiveRun(store).write(12)


@pytest.fixture
def watch(store: Store, run: LiveRun) -> Iterator[Watch]:
    with watched(store, "live") as found:
        yield found


@pytest.fixture(scope="module")
def idle(reported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    """A watch whose run writes nothing more, for all tests that only read."""
    run = LiveRun(Store(shutil.copytree(reported, tmp_path_factory.mktemp("idle") / "store"))).write(12)
    with watched(run.store, "live") as found:
        yield found
    run.end()


def event(stream: Any) -> tuple[str, Any]:
    """Read the next event of a stream: its name and its data."""
    name = ""
    for line in stream:
        text = line.decode().rstrip("\n")
        if text.startswith("event: "):
            name = text.removeprefix("event: ")
        elif text.startswith("data: "):
            return name, json.loads(text.removeprefix("data: "))
    raise AssertionError("the stream has ended")


def test_the_page_is_the_reports_page_and_its_policy_adds_its_own_server_alone(idle: Watch) -> None:
    response = idle.get()
    text = response.read().decode()
    content = json.loads(data_in(text))
    assert response.status == 200 and content["title"] == "live" and content["live"]["state"] == "going"
    assert content["runs"][0]["steps"] == 12 and content["live"]["total_steps"] == 40
    policy = text.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0].split("; ")
    assert "connect-src 'self'" in policy and "default-src 'none'" in policy and "trusted-types 'none'" in policy
    assert not any("unsafe" in rule or "http" in rule for rule in policy)
    headers = {name.lower(): value for name, value in response.getheaders()}
    assert headers["cache-control"] == "no-store" and headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin" and headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "frame-ancestors 'none'"
    assert not [name for name in headers if name.startswith("access-control")] and "server" not in headers


@pytest.mark.parametrize(
    "path",
    ["/", "/x/", "/{token}", "/{token}x/", "/{wrong}/", "/{wrong}/events", "/{token}/../", "/{token}/etc/passwd",
     "/{token}/%2e%2e/%2e%2e/etc/passwd", "//{token}/", "/{token}/events/", "/{token}/?sql=SELECT%201", "/%ff/"],
)  # fmt: skip
def test_nothing_but_the_two_addresses_with_the_token_has_content(idle: Watch, path: str) -> None:
    token = idle.server.token
    wrong = token[:-1] + ("A" if token[-1] != "A" else "B")
    response = idle.get(path.format(token=token, wrong=wrong))
    body = response.read().decode()
    if path.endswith("SELECT%201"):
        assert response.status == 200, "a query string is not read"
        return
    assert response.status == 404 and "live" not in body and token not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD", "TRACE"])
def test_only_get_is_answered(idle: Watch, method: str) -> None:
    response = idle.get(method=method)
    assert response.status == 405 and b"<html" not in response.read()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "evil.example:80@127.0.0.1"}, 421),
        ({"Host": "127.0.0.1@evil.example"}, 421),
        ({"Host": "localhost:9999"}, 200),
        ({"Host": "[::1]"}, 421),
        ({"Host": "[bad"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "none"}, 200),
    ],
    ids=str,
)
def test_a_page_of_another_site_reads_nothing(idle: Watch, headers: dict[str, str], status: int) -> None:
    response = idle.get(**headers)
    assert response.status == status
    if status != 200:
        assert b"live" not in response.read() or status == 421


def test_a_request_without_a_host_is_refused_and_tokens_are_random() -> None:
    assert refusal({}) is not None and refusal({"host": "127.0.0.1:1"}) is None
    first, second = new_token(), new_token()
    assert first != second and len(first) >= 43
    assert is_token(first, first) and not is_token(first[:-1], first) and not is_token("", first)
    assert not is_token("ü\udc80", first)


def test_the_stream_sends_what_is_new_and_the_end(store: Store, run: LiveRun) -> None:
    with watched(store, "live") as watch:
        stream = watch.get(f"/{watch.server.token}/events")
        assert stream.getheader("content-type", "").startswith("text/event-stream")
        name, content = event(stream)
        assert (name, content["runs"][0]["steps"]) == ("content", 12)
        run.write(2)
        assert event(stream)[1]["runs"][0]["steps"] == 14
        run.write(1)
        run.end()
        found = []
        while not found or found[-1][0] != "end":
            found.append(event(stream))
        last = found[-2][1]
        assert last["live"]["state"] == "ended" and last["runs"][0]["steps"] == 15
        watch.thread.join(30)
        assert watch.end is not None and watch.end.code == 0
        assert watch.end.sentence == (
            f"The run 'live' has ended after 15 steps. Its page is written by: curate report live --store {store.root}"
        )


def test_a_browser_that_leaves_is_forgotten_and_nothing_is_read_for_nobody(watch: Watch, run: LiveRun) -> None:
    stream = watch.get(f"/{watch.server.token}/events")
    event(stream)
    assert watch.server.listeners == 1
    stream.close()
    watch.wait(lambda: watch.server.listeners == 0)
    step = watch.server.follower.step
    watch.wait(lambda: watch.server.run_state._looks == 0)
    run.write(3)
    assert watch.server.follower.step == step
    again = watch.get(f"/{watch.server.token}/events")
    assert event(again)[0] == "content"
    watch.wait(lambda: watch.server.follower.step == 15)
    assert event(again)[1]["runs"][0]["steps"] == 15


def test_what_is_written_while_nobody_looks_is_in_the_next_page_and_in_the_last_sentence(
    store: Store, run: LiveRun
) -> None:
    with watched(store, "live") as watch:
        run.write(5)
        assert f"is at step {run.step} of" in watch.get().read().decode()
        run.write(4)
        run.end()
        watch.wait(lambda: watch.end)
        assert watch.end is not None and f"has ended after {run.step} steps" in watch.end.sentence


def test_a_run_that_dies_ends_the_watch_with_a_sentence_and_an_exit_code(store: Store, run: LiveRun) -> None:
    with watched(store, "live") as watch:
        run.stop()
        watch.thread.join(60)
        assert watch.end is not None and watch.end.code == 1
        assert "'live' stopped after step 12, before its end. Resume it with: curate resume live" in watch.end.sentence


def test_stay_goes_on_after_the_end_and_until_it_is_stopped(store: Store, run: LiveRun) -> None:
    with watched(store, "live", stay=True) as watch:
        run.end()
        watch.wait(lambda: watch.server.run_state.state == "ended")
        stream = watch.get(f"/{watch.server.token}/events")
        content = event(stream)[1]
        while content["live"]["state"] != "ended":
            content = event(stream)[1]
        assert watch.thread.is_alive()
    assert watch.end is not None and watch.end.sentence == "The watch has ended. The run is not affected."


def test_a_damaged_record_ends_the_watch_with_the_file_and_the_remedy(store: Store, run: LiveRun) -> None:
    with watched(store, "live") as watch:
        stream = watch.get(f"/{watch.server.token}/events")
        event(stream)
        (file,) = (run.draft.path / "facts" / "ledger").glob("*.parquet")
        file.write_bytes(b"PAR1 nothing of it PAR1")
        watch.thread.join(60)
    assert isinstance(watch.error, StoreError) and file.name in str(watch.error)


def test_a_run_on_another_machine_ends_after_a_long_silence(store: Store, run: LiveRun, monkeypatch: Any) -> None:
    run.stop()
    (run.draft.path / "draft.lock").write_text("12 on another-machine")
    follower = RunFollower(store, run.artifact)
    state = module.RunState(follower)
    list(follower.poll())
    assert state.end() is None and state.look() == "unseen"
    assert state.sentence() == (
        "The run 'live' is at step 12 of 40. It is on another machine, so its end may not be noticed."
    )
    monkeypatch.setattr(module, "SILENCE", 1.0)
    with watched(store, "live") as watch:
        watch.thread.join(60)
        assert watch.end is not None and watch.end.code == 1 and "stopped after step 12" in watch.end.sentence


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Port {port} of this machine is in use. Give another --port"):
            listen(port)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["liv"], 1, "There is no run named 'liv' in the store store. Did you mean 'live'?"),
        (["pool"], 1, "was made by ingest, not by train"),
        (["a"], 0, "The run 'a' has ended after 12 steps. Its page is written by: curate report a"),
        ([], 1, "No run is being made in the store store. Name one: curate status lists them."),
        (["live", "--store", "elsewhere"], 1, "There is no store in elsewhere"),
        (["live"], 1, "The run 'live' stopped after step 12, before its end. Resume it with: curate resume live"),
        (["live", "--overwrite"], 1, "--overwrite is for --once FILE"),
        (["live", "--port", "70000"], 2, "--port"),
        (["live", "--once", "."], 1, "Give --once the name of a file"),
    ],
)
def test_what_cannot_be_watched_is_one_sentence_and_an_exit_code(
    curate: Call, store: Store, run: LiveRun, args: list[str], code: int, message: str
) -> None:
    run.stop()
    done = curate("watch", *args)
    assert (done.code, done.out) == (code, "")
    assert message in done.err and "Traceback" not in done.err


def test_two_runs_have_to_be_named(curate: Call, store: Store, run: LiveRun) -> None:
    other = LiveRun(store, "second", seed=5).write(1)
    assert "2 runs are being made in store. Name one of them: live, second." in curate("watch").err
    run.end()
    other.end()


def test_once_writes_the_report_of_a_run_that_still_goes(curate: Call, store: Store, run: LiveRun) -> None:
    done = curate("watch", "live", "--once", "live.html")
    assert (done.code, done.out) == (0, "live.html\n")
    content = json.loads(data_in(Path("live.html").read_text(encoding="utf-8")))
    assert content["runs"][0]["steps"] == 12 and "live" not in content and content["samples"]["shown"] > 30
    assert "The run live is not finished." in content["notes"][0]
    assert curate("watch", "live", "--once", "live.html").code == 1
    assert curate("watch", "--once", "live.html", "--overwrite").code == 0, "the only run that goes"
    run.end()


def test_hostile_texts_are_data_in_the_page_and_in_the_stream(idle: Watch) -> None:
    text = idle.get().read().decode()
    content = json.loads(data_in(text))
    rows = [*content["live"]["now"]["kept"], *content["live"]["now"]["passed"]]
    assert any(each in row["prompt"] for row in rows for each in HOSTILE)
    assert text.count("<script") == 3 and "<img" not in text
    stream = idle.get(f"/{idle.server.token}/events")
    assert event(stream)[1]["live"]["now"] == content["live"]["now"]
