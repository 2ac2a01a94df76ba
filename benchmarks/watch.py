"""What a watch costs the run that it shows: the same run with and without it, by turns.

Each run is `curate train` in a process of its own, on a copy of one store, with the demo's pool and a small model. In
one run of a pair `curate watch` serves the page to a client that reads every event; which run comes first alternates.
Columns, and the last line as JSON:

`cpu_s`: processor seconds of the training process, user and system; `step_ms`: median of its seconds per step, without
evaluations and checkpoints; `watch_cpu_s`: processor seconds of the watch; `events`: contents that the page received.
`cpu_ratio`, `step_ratio`: with over without, of pairs: the median, and the smallest and largest.

    python benchmarks/watch.py
    python benchmarks/watch.py --pairs 1 --steps 200
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parents[1]))

from curate import Store, make

CURATE = [sys.executable, "-m", "curate"]
STEP = "SELECT median(value) AS seconds FROM metrics WHERE run = 'run' AND metric = 'step_seconds' AND step > 5"


class Listener:
    """A client of a watch, as a browser is one: it opens the page and reads the stream.

    Args:
        store: folder of the store.
    """

    def __init__(self, store: Path) -> None:
        self.events = 0
        self.process: subprocess.Popen[str] | None = None
        self._store = store
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while not list(self._store.glob("artifacts/train/*/draft.json")):
            time.sleep(0.05)
        line = [*CURATE, "watch", "run", "--store", str(self._store)]
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        address = urlsplit(self.process.stdout.readline().strip())
        if not address.netloc:
            print("The run ended before the watch began: give more --steps.", file=sys.stderr)
            return
        for path in ("", "events"):
            connection = HTTPConnection(address.netloc, timeout=600)
            connection.request("GET", address.path + path)
            for text in connection.getresponse():
                self.events += text.startswith(b"event: content")

    def cpu_seconds(self) -> float:
        """Wait for the watch, which ends with its run, and return its processor seconds."""
        self._thread.join()
        assert self.process is not None
        return _cpu_seconds(self.process)


def _cpu_seconds(process: subprocess.Popen[Any]) -> float:
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, process.args))} ended with {process.returncode}")  # type: ignore[arg-type]
    return usage.ru_utime + usage.ru_stime


def measured(template: Path, folder: Path, steps: int, seed: int, *, watched: bool) -> dict[str, float]:
    """Make one run on a copy of the store, and return its figures."""
    store = Path(shutil.copytree(template, folder / f"{seed}-{watched}"))
    line = [
        *CURATE,
        "train",
        "--pool",
        "pool",
        "--model",
        "model",
        "--selector",
        "uds",
        "--name",
        "run",
        "--candidates",
    ]
    line += [
        "32",
        "--keep",
        "8",
        "--max-steps",
        str(steps),
        "--save-steps",
        str(max(1, steps // 2)),
        "--seed",
        str(seed),
    ]
    line += ["--max-length", "128", "--store", str(store)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    listener = Listener(store) if watched else None
    found = {"cpu_s": _cpu_seconds(process)}
    if listener is not None:
        found |= {"watch_cpu_s": listener.cpu_seconds(), "events": listener.events}
    ((seconds,),) = Store(store).query(STEP).to_pydict().values()
    shutil.rmtree(store)
    return found | {"step_ms": 1000 * seconds}


def main() -> None:
    """Measure pairs of runs and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    given = parser.parse_args()
    pairs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store(folder / "store")
        make(store, "demo-model", name="model", steps=20)
        make(store, "demo-pool", name="raw", rows=2000)
        make(store, "ingest", name="pool", data=["demo=raw"])
        for pair in range(given.pairs):
            order = (False, True) if pair % 2 == 0 else (True, False)
            runs = {side: measured(store.root, folder, given.steps, pair, watched=side) for side in order}
            pairs.append(runs)
            print(f"pair {pair}: without {runs[False]}, with {runs[True]}", flush=True)
    ratios = {
        f"{key.partition('_')[0]}_ratio": [p[True][key] / p[False][key] for p in pairs] for key in ("cpu_s", "step_ms")
    }
    summary = {
        name: {"median": statistics.median(values), "least": min(values), "most": max(values)}
        for name, values in ratios.items()
    }
    print(json.dumps({"steps": given.steps, "pairs": [{str(k): v for k, v in p.items()} for p in pairs], **summary}))


if __name__ == "__main__":
    main()
