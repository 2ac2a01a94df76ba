"""The oracle of the chat-template benchmark finds samples that are wrong, and refusals that are untrue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.template_oracle import ANSWER, CASES, USER, ChatCase, Tokens, fault_of, ground, truth_of
from benchmarks.templates import Subject, examine, judge, tokenizer_for, totals

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SEVERAL = ChatCase("several turns", (USER[0], ANSWER[0], USER[1], ANSWER[1]))
TEXT = (
    "<|im_start|>user\nHow many legs has a spider?<|im_end|>\n<|im_start|>assistant\nEight, in four pairs.<|im_end|>\n"
    "<|im_start|>user\nAnd a beetle, then?<|im_end|>\n<|im_start|>assistant\nSix of them.<|im_end|>\n"
)
ANSWERS = ("Eight, in four pairs.<|im_end|>", "Six of them.<|im_end|>")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizer_for(CHATML)


def fault(tokenizer: Any, trained: Sequence[str], text: str = TEXT, answer: int | None = None) -> str | None:
    """Return the fault of a text whose trained parts are given."""
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    spans = [(text.index(part), text.index(part) + len(part)) for part in trained]
    mask = [any(start < b and a < end for start, end in spans) for a, b in encoded["offset_mapping"]]
    ends = frozenset(tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>"]))

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=False))

    truth = truth_of(tokenizer, SEVERAL)
    return fault_of(Tokens(encoded["input_ids"], mask, answer), SEVERAL, truth, decode, ends)


def test_a_right_mask_has_no_fault(tokenizer: Any) -> None:
    assert fault(tokenizer, ANSWERS) is None
    assert fault(tokenizer, [answer + "\n" for answer in ANSWERS]) is None
    cut = TEXT[: TEXT.index("<|im_start|>user\nAnd")]
    assert fault(tokenizer, ANSWERS[:1], cut, answer=1) is None
    assert fault(tokenizer, ANSWERS[1:], answer=3) is None


@pytest.mark.parametrize(
    ("trained", "text", "answer", "says"),
    [
        (ANSWERS[:1], TEXT, None, "1 trained parts, and 2 answers"),
        (("Eight, in four", ANSWERS[1]), TEXT, None, "'Eight, in four pairs.' is not trained on"),
        (("Eight, in four pairs.", ANSWERS[1]), TEXT, None, "its end is not trained on"),
        (("assistant\n" + ANSWERS[0], ANSWERS[1]), TEXT, None, "the header 'assistant' is trained on"),
        (("<|im_start|>assistant\n" + ANSWERS[0], ANSWERS[1]), TEXT, None, "<|im_start|>assistant' is trained on"),
        ((TEXT[TEXT.index("Eight") : TEXT.index("And") + 19], ANSWERS[1]), TEXT, None, "of another turn is trained on"),
        (ANSWERS, TEXT.replace("beetle", "Beetle"), None, "not what the template renders"),
        (ANSWERS[1:], TEXT.replace("How many", "How  many"), 3, "the prompt of turn 4 is not that of inference"),
        (ANSWERS[:1], TEXT, 1, "text after the answer of turn 2"),
    ],
)
def test_a_wrong_mask_has_a_fault(
    tokenizer: Any, trained: Sequence[str], text: str, answer: int | None, says: str
) -> None:
    assert says in str(fault(tokenizer, trained, text, answer))


def test_what_a_template_leaves_out_is_known() -> None:
    cases = {case.name: case for case in CASES}
    plain = tokenizer_for(CHATML)
    assert truth_of(plain, cases["reasoning"]).left_out == ["Arachnids differ from insects."]
    assert truth_of(plain, cases["tools"]).left_out == ["look_up_weather", "Turku"]
    assert truth_of(plain, cases["several turns"]).left_out == []
    raising = tokenizer_for("{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHATML)
    assert "no" in str(truth_of(raising, cases["system"]).error) and truth_of(raising, cases["tools"]).error is None


def test_arguments_and_contents_are_given_in_the_form_that_a_template_takes() -> None:
    tools = next(case for case in CASES if case.name == "tools")
    calls = "{% for c in m.tool_calls or [] %}{{ c.function.name + c.function.arguments }}{% endfor %}"
    text_only = CHATML.replace("{{ m.content }}", "{{ m.content }}" + calls)
    truth = truth_of(tokenizer_for(text_only), tools)
    assert truth.error is None and '{"city": "Turku"}' in truth.wholes[0]
    parts = CHATML.replace("{{ m.content }}", "{% for p in m.content %}{{ p['text'] }}{% endfor %}")
    assert truth_of(tokenizer_for(parts), SEVERAL).wholes == [TEXT]


def test_a_refusal_is_true_only_with_a_ground_that_it_names() -> None:
    cases = {case.name: case for case in CASES}
    kept, dropped = (truth_of(tokenizer_for(CHATML), cases[name]) for name in ("several turns", "reasoning"))
    assert not ground(kept, "the template leaves out the answer")
    assert ground(dropped, "the chat template leaves out its reasoning")
    assert not ground(dropped, "renders turn 2 differently when more turns follow")


def test_curate_is_judged_through_its_encoder(tmp_path: Any) -> None:
    tokenizer = tokenizer_for(CHATML)
    found = judge(tokenizer, Subject(tokenizer), SEVERAL)
    assert found["verdict"] == "right" and found["reason"] == ""
    (tmp_path / "chatml.jinja").write_text(CHATML)
    (tmp_path / "raising.jinja").write_text("{{ raise_exception('never') }}")
    results = [examine(path, trl=False) for path in sorted(tmp_path.glob("*.jinja"))]
    assert results[1]["counts"] == {"refused": 8} and totals(results)["refused: raises"] == 8
    assert results[0]["counts"]["right"] >= 5
