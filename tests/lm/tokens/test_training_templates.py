"""With `--turns whole` a stock template gives the masks of TRL's assistant-only loss, by TRL's training template."""

from __future__ import annotations

import copy
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from curate.lm.model.config_checks import ModelOptions
from curate.lm.model.load import load_tokenizer
from curate.lm.tokens.chat_template import MARKS, training_template
from curate.lm.tokens.encode import Encoder, MaskError
from curate.samples import Sample

FOLDER = files("curate.lm.tokens").joinpath("training_templates")
MANIFEST: dict[str, str] = json.loads(FOLDER.joinpath("manifest.json").read_text())
CALL = {"id": "a1b2c3d4e", "type": "function", "function": {"name": "tide", "arguments": {"port": "Brest"}}}
TOOL = {
    "type": "function",
    "function": {
        "name": "tide",
        "description": "Height of the tide",
        "parameters": {"type": "object", "properties": {"port": {"type": "string", "description": "a port"}}},
    },
}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


CHATS = {
    "one": Sample([user("Which sea is salty?"), answer("All of them.")]),
    "several": Sample([user("Name a sea."), answer("The Baltic."), user("One more?"), answer("The Aral.")]),
    "system": Sample([{"role": "system", "content": "Be exact."}, user("Name a sea."), answer("The Baltic.")]),
    "tools": Sample(
        [user("Tide?"), answer("", tool_calls=[CALL]), {"role": "tool", "content": "low"}, answer("It is low.")],
        tools=[TOOL],
    ),
    "reasoning": Sample([user("2 seas and 1?"), answer("Three.", reasoning_content="adding them")]),
}


def with_markers(tiny: str, template: str) -> Any:
    """Return the tiny tokenizer with the markers of a template as special tokens."""
    tokenizer = load_tokenizer(ModelOptions(tiny))
    markers = set(re.findall(r"<\|[^|<>\s'\"]{1,40}\|>|<｜[^｜]{1,40}｜>|<\|?/?\w+\|?>", template))
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(markers)})
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.chat_template = template
    return tokenizer


def test_every_training_template_is_listed_once_and_has_marks_and_a_licence() -> None:
    names = sorted(path.name for path in Path(str(FOLDER)).glob("*.jinja"))
    assert sorted(MANIFEST.values()) == names and len(names) == 31
    assert all(MARKS.search(FOLDER.joinpath(name).read_text(encoding="utf-8")) for name in names)
    assert "Apache License" in FOLDER.joinpath("LICENSE").read_text()
    assert "TRL 1.16.0" in FOLDER.joinpath("README.md").read_text()


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("qwen3", "<think>\n\n</think>\n\nThe Baltic.<|im_end|>\n<think>\n\n</think>\n\nThe Aral.<|im_end|>\n"),
        ("llama3", "The Baltic.<|eot_id|>The Aral.<|eot_id|>"),
        ("phi3", "The Baltic.<|end|>\nThe Aral.<|end|>\n<|im_end|>"),
        ("gemma", "The Baltic.<end_of_turn>\nThe Aral.<end_of_turn>\n"),
        ("glm4moe", "\n<think></think>\nThe Baltic.<|user|>\n<think></think>\nThe Aral.<|user|>"),
    ],
)
def test_a_training_template_trains_on_these_tokens(tiny: str, name: str, wanted: str) -> None:
    tokenizer = with_markers(tiny, FOLDER.joinpath(f"{name}_training.jinja").read_text(encoding="utf-8"))
    row = Encoder(tokenizer, max_length=10**6, turns="whole")(CHATS["several"])
    assert tokenizer.decode(row.input_ids[row.target]) == wanted


def stock_templates() -> list[Path]:
    trl = pytest.importorskip("trl.chat_template_utils", reason="TRL is not installed")
    return sorted(path for path in trl._CHAT_TEMPLATES_DIR.glob("*.jinja") if "_training" not in path.name)


def test_training_templates_are_those_that_trl_chooses(tiny: str) -> None:
    from trl.chat_template_utils import get_training_chat_template

    tokenizer, known = load_tokenizer(ModelOptions(tiny)), 0
    for path in stock_templates():
        tokenizer.chat_template = path.read_text(encoding="utf-8")
        try:
            wanted = get_training_chat_template(tokenizer)
        except ValueError:  # TRL has none
            wanted = None
        found = training_template(tokenizer.chat_template)
        assert found == wanted or (wanted is None and MARKS.search(tokenizer.chat_template))
        known += found is not None
    assert known == 31


@pytest.mark.parametrize("name", sorted(CHATS))
def test_masks_of_whole_conversations_are_trls_token_for_token(tiny: str, name: str) -> None:
    compared = 0
    for path in stock_templates():
        stock = path.read_text(encoding="utf-8")
        training = training_template(stock)
        if training is None:
            continue
        tokenizer = with_markers(tiny, stock)
        try:
            row = Encoder(tokenizer, max_length=10**6, turns="whole")(CHATS[name])
        except MaskError as error:
            assert re.search("leaves out|raises", error.reason), (path.name, str(error))
            continue
        messages = copy.deepcopy(list(CHATS[name].messages))
        if "content'][0]['text']" in stock or "for line in message['content']" in stock:  # a list of parts
            messages = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in messages]
        wanted = tokenizer.apply_chat_template(
            messages,
            tools=CHATS[name].tools,
            chat_template=training,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        ended = len(row.input_ids) - len(wanted["input_ids"])
        assert row.input_ids.tolist()[: len(wanted["input_ids"])] == wanted["input_ids"], path.name
        assert row.target.tolist()[: len(wanted["input_ids"])] == [bool(x) for x in wanted["assistant_masks"]], (
            path.name
        )
        assert ended == 0, path.name
        compared += 1
    assert compared >= {"tools": 18, "reasoning": 13}.get(name, 30)
