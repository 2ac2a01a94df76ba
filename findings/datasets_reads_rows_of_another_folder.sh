#!/usr/bin/env bash
# One expects datasets.load_dataset("b/kept") to give the rows that lie in b/kept, and the rows of today after the file
# has changed. Its cache tells apart two local folders by their files, so this is what happens without a README.md.
#
# With a README.md whose front matter names the files (`configs`, as every card of the Hub has it), a local folder with
# the same last name as one that was loaded before gives the rows of that other folder, and a folder that was changed
# gives its old rows. Nothing is said. datasets 5.2.0, seen on 2026-11-29.
#
# It matters to people who curate data: curated subsets are written next to each other, runs/1/kept, runs/2/kept, or again into
# the same folder, and the trainer then trains on the subset before. A config name that is different for each export
# (such as a hash of its content) avoids it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check datasets==5.2.0 pyarrow==26.0.1

cat > "$folder/load.py" <<'PY'
import json
import pathlib
import sys

import datasets

datasets.disable_progress_bars()
FRONT = "---\nconfigs:\n- config_name: {name}\n  data_files:\n  - split: train\n    path: train.jsonl\n---\n"


def write(folder: str, texts: list[str], name: str | None) -> None:
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    (path / "train.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    if name:
        (path / "README.md").write_text(FRONT.format(name=name))


def load(folder: str) -> list[str]:
    return list(datasets.load_dataset(folder, split="train")["prompt"])


def three(root: str, names: list[str | None]) -> list[list[str]]:
    write(f"{root}/a/kept", ["first"], names[0])
    found = [load(f"{root}/a/kept")]
    write(f"{root}/b/kept", ["second", "third"], names[1])
    found.append(load(f"{root}/b/kept"))
    write(f"{root}/a/kept", ["changed"], names[2])
    return [*found, load(f"{root}/a/kept")]


print("a/kept, b/kept, a/kept again")
seen = {how: three(how, names) for how, names in {
    "no card": [None, None, None],
    "one config name": ["default", "default", "default"],
    "a config name for each": ["x1", "x2", "x3"],
}.items()}
for how, found in seen.items():
    print(f"{how}: {found}")
right = [["first"], ["second", "third"], ["changed"]]
expected = {"no card": right, "one config name": [["first"]] * 3, "a config name for each": right}
sys.exit(seen != expected and "datasets does something else now")
PY
cd "$folder"
HF_HOME="$folder/cache" "$folder/venv/bin/python" load.py
