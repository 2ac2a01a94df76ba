"""Configs are YAML of a size that a person can type, with every key once; anything else is an error in a sentence."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from curate.api.commands.pipelines import read
from curate.config import Config, build, load, read_yaml, scalar
from curate.errors import ConfigError, CurateError
from curate.runtime.strict_yaml import LARGEST, NotYaml, parse
from curate.stages import STAGES, stage_of
from tests.support.paths import ROOT

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
)
MERGES = LAUGHS.replace("a: &a [x,x,x,x,x,x,x,x,x,x]", "a: &a {x: 1}").replace(": &", ": &").replace("[*", "{<<: [*")
MERGES = MERGES.replace("]\n", "]}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "has more than 100000 values"),
        (MERGES, "has more than 100000 values"),
        ("a: 1\nb: 2\na: 3", "key 'a' in line 1 is repeated in line 3"),
        ("x: {a: 1,\n a: 2}", "key 'a' in line 1 is repeated in line 2"),
        ("a: &a [*a]", "contains itself"),
        ("a: &a {b: *a}", "contains itself"),
        ("- " * 60 + "x", "nested deeper"),
        ("[" * 1500, "nested deeper"),
        ("a: 2024-13-45", "cannot be read"),
        ("a: !!python/object/apply:os.system ['touch pwned']", "could not determine a constructor"),
        ("a: 0x" + "f" * 6000, "too long"),
        ("a: " + "9" * 5000, "cannot be read"),
        ("? [a]\n: 1", "unhashable"),
        ("a: \x00", "unacceptable"),
        (b"a: \xff", "unacceptable"),
        ("a: " + "x" * LARGEST, "larger than"),
        ("--- a\n--- b", "single document"),
        ("a: !!bool maybe", "cannot be read"),
        ("a: !!timestamp x", "cannot be read"),
    ],
)
def test_yaml_that_is_too_large_or_wrong_is_an_error_with_its_line(text: str | bytes, message: str) -> None:
    with pytest.raises(NotYaml, match=message):
        parse(text)
    assert not os.path.exists("pwned")


def test_anchors_and_merges_mean_what_they_mean_in_yaml() -> None:
    texts = [
        "base: &b {x: 1, y: 2}\nc: {<<: *b, y: 3}",
        "a: &a {x: 1}\nx: {b: &b {<<: *a, x: 2}}\nd: {<<: *b, y: 2}",
        "a: &a [1, 2]\nb: [*a, *a]",
        "a: 1e-3\nb: yes\nc: 2024-01-02\nd: ~\ne: 'x'\nf: |\n  text\n",
        "",
    ]
    assert [parse(text) for text in texts] == [yaml.safe_load(text) for text in texts]


def test_every_config_and_pipeline_that_comes_with_curate_is_read_as_before() -> None:
    root = ROOT
    files = [*(root / "configs").rglob("*.yaml"), *(root / "pipelines").glob("*.yaml")]
    assert files
    for file in files:
        assert read_yaml(file) == yaml.safe_load(file.read_text(encoding="utf-8"))


def test_files_that_are_no_config_are_named(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    for content, message in [
        (b"\xff", "not YAML"),
        (b"a: 1\na: 2", "line 1 is repeated in line 2"),
        (b"[]", "not a list"),
        (b"", "NoneType"),
    ]:
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=rf"c\.yaml.*{message}"):
            read_yaml(file)
    file.write_bytes(b"1: 2")
    with pytest.raises(ConfigError, match=r"The key 1 in .*c\.yaml is not text"):
        load(Config, file=file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)
    with pytest.raises(ConfigError):
        read_yaml(Path("a\x00b"))


def test_values_on_the_command_line_are_bounded_too() -> None:
    for text in ("2024-13-45", "&a [*a]", "[" * 2000, "{a: 1, a: 2}", "!!python/name:os.system"):
        with pytest.raises(ConfigError, match="not a YAML value"):
            scalar(text)
    assert scalar("1e-3") == 0.001 and scalar("x") == "x"


@pytest.mark.parametrize(
    "name", ["../x", "..", "a/b", "a\\b", "", ".x", "-x", "a\n", "a\x00", "x" * 200, "é", "C:x", " a", "~"]
)
def test_the_name_of_an_artifact_is_never_a_path(name: str) -> None:
    with pytest.raises(ConfigError):
        build(Config, {"name": name})


def test_options_that_cannot_be_stored_are_an_error() -> None:
    with pytest.raises(ConfigError, match="not valid Unicode"):
        build(stage_of("ingest").config, {"name": "p", "data": ["a.jsonl"], "split": "a\udcff"})


def value(rng: Random, depth: int = 0) -> Any:
    leaves = [
        None,
        True,
        0,
        -1,
        2**80,
        1e308,
        float("nan"),
        "",
        "../x",
        "\x00",
        "é" * 50,
        "sql:",
        "a=b",
        "x" * 5000,
        b"x",
    ]
    if depth < 3 and rng.random() < 0.4:
        inner = [value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
        return inner if rng.random() < 0.5 else {rng.choice(["name", "a", 1, None, ""]): item for item in inner}
    return rng.choice(leaves)


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "script"])
def test_any_config_is_built_or_is_an_error_in_a_sentence(stage: str, tmp_path: Path) -> None:
    rng, cls = Random(stage), stage_of(stage).config
    for number in range(40):
        fields = rng.sample(sorted(cls.model_fields), rng.randint(0, min(4, len(cls.model_fields))))
        values = {"name": "x"} | {field: value(rng) for field in fields}
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
        try:
            load(cls, file=file)
        except CurateError as error:
            assert str(error)


def test_any_pipeline_is_read_or_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    rng = Random(1)
    for number in range(150):
        stage = rng.choice([*STAGES, "query", "nothing", 3, None])
        keys = {rng.choice(["name", "config", "file", "sql", "params", "data"]): value(rng) for _ in range(2)}
        content = {"stages": [{stage: rng.choice([keys, value(rng)])}]}
        if rng.random() < 0.2:
            content = {rng.choice(["stages", "x"]): value(rng)}
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        try:
            read(file, rng.choice([(), ("x.y=1",), ("x.name=[",), ("=",)]), tmp_path)
        except CurateError as error:
            assert str(error)
