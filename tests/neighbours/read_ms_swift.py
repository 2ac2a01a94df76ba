"""Read exports with ms-swift's `load_dataset` and template, and write what it would train on to FOLDER/read.json."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

from swift.dataset import load_dataset
from swift.model import get_processor
from swift.template import get_template


def rows_of(folder: Path, name: str) -> list[dict[str, list[int]]]:
    (file,) = (folder / "exports" / name).glob("train.*")
    processor = get_processor(str(folder / "model"), model_type="llama", download_model=False)
    template = get_template(processor, template_type="chatml", agent_template="hermes", max_length=4096)
    template.set_mode("train")
    data, _ = load_dataset([str(file)], num_proc=1, shuffle=False, load_from_cache_file=False)
    rows = []
    for row in data:
        try:
            encoded = template.encode(dict(row))
        except AssertionError:  # the training skips such rows, as its LazyLLMDataset does
            continue
        mask = [int(label >= 0) for label in encoded["labels"]]
        rows.append({"ids": list(encoded["input_ids"]), "mask": mask})
    return rows


def main(folder: Path) -> None:
    rows = {}
    for entry in json.loads((folder / "plan.json").read_text()):
        if "refused" not in entry:
            try:
                rows[entry["name"]] = rows_of(folder, entry["name"])
            except Exception as error:
                rows[entry["name"]] = f"{type(error).__name__}: {error}"
    versions = f"{version('ms-swift')}, transformers {version('transformers')}, datasets {version('datasets')}"
    (folder / "read.json").write_text(json.dumps({"versions": versions, "rows": rows}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
