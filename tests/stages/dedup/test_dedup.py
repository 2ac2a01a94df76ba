"""`curate dedup`: planted copies are found and only these, and numbers, short texts and other answers are kept."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curate import Artifact, make
from curate.errors import ConfigError, CurateError
from curate.samples import Sample
from curate.stages.dedup.minhash import FUNCTIONS, MISSED, least_agreements, rows_per_band, similar_pairs
from curate.stages.dedup.sets import Sets, SetsBuilder, shingles_of
from curate.stages.dedup.texts import WORD, normalize, numbers, split
from curate.store import Store
from tests.support.exports import ingest

LONG = " ".join(f"word{n % 7} thing{n}x" for n in range(40)).translate(str.maketrans("0123456789", "abcdefghij"))
Row = tuple[str, str]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.chdir(tmp_path)
    return Store(tmp_path / "store")


def pool(store: Store, rows: list[Row], name: str = "pool", **options: Any) -> list[str]:
    texts = [{"instruction": prompt, "input": "", "output": answer} for prompt, answer in rows]
    return ingest(store, texts, name, **options)


def dedup(store: Store, name: str = "c", **values: Any) -> Artifact:
    return make(store, "dedup", name=name, pool=values.pop("pool", "pool"), **values)


def kept(store: Store, ids: list[str], name: str = "c") -> list[int]:
    rows = store.query('SELECT * FROM subsets WHERE subset = $name ORDER BY "rank"', {"name": name})
    assert rows["sample_id"].to_pylist() == store.get(name).table()["sample_id"].to_pylist()
    assert rows["rank"].to_pylist() == list(range(len(rows)))
    return [ids.index(each) for each in rows["sample_id"].to_pylist()]


def pairs(store: Store, name: str = "c") -> set[tuple[str, str, str]]:
    sql = "SELECT * FROM duplicates WHERE subset = $name"
    rows = store.query(sql, {"name": name}).to_pylist()
    return {(row["sample_id"], row["other_id"], row["kind"]) for row in rows}


@pytest.mark.parametrize("by", ["exact", "minhash"])
def test_exact_copies_are_apart_in_case_space_and_unicode_form_only(store: Store, by: str) -> None:
    rows = [
        ("Say Hi", "Hello There"),
        ("say  hi\n", "hello there"),
        ("Say Hi", "Hello There!"),
        ("ﬁne", "A"),
        ("fine", "a"),
    ]
    ids = pool(store, rows)
    made = dedup(store, by=by)
    assert kept(store, ids) == [0, 2, 3]
    assert pairs(store) == {
        (ids[1], ids[0], "exact"),
        (ids[4], ids[3], "exact"),
        (ids[2], ids[0], "contradiction"),
    }
    assert made.summary["removed as exact copies"] == 2 and made.summary["contradictions"] == 1
    assert made.summary["samples"] == 3 and made.rows == 3
    assert (
        made.summary["first pairs"]["1"] == f"{ids[1]} of {ids[0]}, exact 1.000"
        and len(made.summary["first pairs"]) == 3
    )


def test_a_near_copy_with_one_word_changed_is_found_by_minhash_alone(store: Store) -> None:
    ids = pool(store, [(LONG, "yes it is"), (LONG.replace("thingcax", "other"), "yes it is"), ("Other", "yes it is")])
    made = dedup(store)
    assert kept(store, ids) == [0, 2] and pairs(store) == {(ids[1], ids[0], "near")}
    assert made.summary["removed as near copies"] == 1
    (value,) = store.query("SELECT jaccard FROM duplicates")["jaccard"].to_pylist()
    a, b = (
        {words[n : n + 3] for n in range(len(words) - 2)}
        for words in (tuple(LONG.split()), tuple(LONG.replace("thingcax", "other").split()))
    )
    assert value == pytest.approx((len(a & b) + 1) / (len(a | b) + 1), abs=1e-12)
    dedup(store, "exact", by="exact")
    assert kept(store, ids, "exact") == [0, 1, 2]
    dedup(store, "strict", threshold=0.99)
    assert kept(store, ids, "strict") == [0, 1, 2]


UNLIKE = ("8 - 3", "8 + 3", "8-3=5", "8+3=5", "It is 5.", "It is 6.", "x²", "x2", "1½", "11/2", "3.5", "3,5", "-4", "4")


@pytest.mark.parametrize("on", ["prompt", "answer", "both"])
def test_other_numbers_and_signs_are_no_copies(store: Store, on: str) -> None:
    texts = [*UNLIKE, *(f"{LONG} {each}" for each in UNLIKE)]
    ids = pool(store, [(each, each) for each in texts])
    dedup(store, on=on, threshold=0.3)
    assert kept(store, ids) == list(range(len(texts))) and not pairs(store)


def test_short_texts_are_kept_unless_they_are_copies(store: Store) -> None:
    ids = pool(store, [("a", "b"), ("c", "d"), ("A", "B"), ("你好", "好"), ("你", "好"), ("a b", "b")])
    dedup(store)
    assert kept(store, ids) == [0, 1, 3, 4, 5] and pairs(store) == {(ids[2], ids[0], "exact")}


def test_the_same_question_with_another_answer_is_listed_and_kept(store: Store) -> None:
    rows = [(LONG, "It is red"), (LONG, "It is blue"), (LONG, f"{LONG} 5"), (LONG, f"{LONG} 6"), (LONG, "it is RED")]
    ids = pool(store, rows)
    made = dedup(store)
    assert kept(store, ids) == [0, 1, 2, 3] and made.summary["contradictions"] == 3
    assert pairs(store) == {(ids[n], ids[0], "contradiction") for n in (1, 2, 3)} | {(ids[4], ids[0], "exact")}
    dedup(store, "prompts", on="prompt")
    assert kept(store, ids, "prompts") == [0]


def test_the_longest_is_kept_and_the_first_of_equal_length(store: Store) -> None:
    rows = [(LONG, "yes"), (f"Please {LONG}", "yes"), (f"please {LONG}", "yes")]
    ids = pool(store, rows)
    dedup(store, keep="longest")
    assert kept(store, ids) == [1]
    dedup(store, "first")
    assert kept(store, ids, "first") == [0]


def test_a_pool_is_compared_with_another_one(store: Store) -> None:
    other = pool(store, [(f"{LONG} end", "yes"), ("Held out", "A"), ("Q", "other")], "held")
    ids = pool(store, [(LONG, "yes"), ("held  out", "a"), ("Q", "mine"), ("New", "x"), ("new", "x")])
    made = dedup(store, against="held")
    assert kept(store, ids) == [2, 3] and made.summary["removed with a copy in the other pool"] == 2
    assert pairs(store) == {
        (ids[0], other[0], "near"),
        (ids[1], other[1], "exact"),
        (ids[2], other[2], "contradiction"),
        (ids[4], ids[3], "exact"),
    }
    across = store.query("SELECT sample_id FROM duplicates WHERE across")["sample_id"].to_pylist()
    assert set(across) == set(ids[:3])


def test_a_row_that_comes_again_and_a_row_without_an_answer_are_counted(store: Store) -> None:
    store_rows = [{"text": "Only text"}, {"text": "Other text"}]
    ids = ingest(store, store_rows, "texts")
    made = dedup(store, pool="texts", on="answer")
    assert kept(store, ids) == [0, 1] and made.summary["rows without a prompt or an answer to compare"] == 2
    pool(store, [("a", "b"), ("a", "b")])
    assert dedup(store, "again").summary["rows that hold a sample again"] == 1


def words(rng: random.Random) -> str:
    return " ".join(rng.choice("abcdefghijklmnopqrstuvwxyz") * rng.randint(1, 3) for _ in range(rng.randint(1, 30)))


def planted(seed: int) -> list[Row]:
    """Return 150 rows, half of them with some words of an earlier row changed."""
    rng, rows = random.Random(seed), []
    for _ in range(150):
        if rows and rng.random() < 0.5:
            prompt, answer = rng.choice(rows)
            changed = prompt.split()
            for _ in range(rng.randint(0, 2)):
                changed[rng.randrange(len(changed))] = words(rng).split()[0]
            rows.append((" ".join(changed), answer if rng.random() < 0.7 else words(rng)))
        else:
            rows.append((words(rng) + rng.choice(["", " 1", " 2"]), words(rng)))
    return rows


def sets(texts: list[str]) -> Sets:
    builder = SetsBuilder()
    for text in texts:
        builder.add(text)
    return builder.sets()


def test_sets_are_those_of_single_texts_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [*(row[0] for row in planted(11)), "", "one", "one two", "   ", "one two three four", "", LONG]
    whole = sets(texts)
    monkeypatch.setattr("curate.stages.dedup.sets.WORDS_AT_ONCE", 3)
    small = sets(texts)
    for found in (whole, small):
        assert found.starts[-1] == len(found.values) and len(found.starts) == len(texts) + 1
        for number, text in enumerate(texts):
            members = found.values[found.starts[number] : found.starts[number + 1]]
            assert members.tolist() == shingles_of([WORD.findall(text)], 3).tolist()
            assert len(members) == len(slow_shingles(text))


def slow_shingles(text: str) -> set[tuple[str, ...]]:
    found = WORD.findall(text)
    return {tuple(found[n : n + 3]) for n in range(max(len(found) - 2, 1))} if found else set()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 1.0])
def test_the_pairs_are_those_of_comparing_all_with_all(threshold: float) -> None:
    rows = planted(7)
    labels = [hash((numbers(prompt), numbers(answer))) % 2**63 for prompt, answer in rows]
    expected = {}
    for one, two in itertools.combinations(range(len(rows)), 2):
        shared, union, ratios = 0, 0, []
        for part in (0, 1):
            a, b = slow_shingles(rows[one][part]), slow_shingles(rows[two][part])
            shared, union = shared + len(a & b), union + len(a | b)
            ratios.append(len(a & b) / len(a | b))
        if labels[one] == labels[two] and shared / union >= threshold and ratios[1] >= threshold:
            expected[one, two] = shared / union
    found = similar_pairs(
        [sets([row[part] for row in rows]) for part in (0, 1)], np.array(labels, np.uint64), threshold
    )
    assert len(expected) > 10
    assert dict(zip(map(tuple, found.items.tolist()), found.similarity.tolist(), strict=True)) == pytest.approx(
        expected
    )
    assert (found.answers >= threshold).all()


def test_bands_miss_a_pair_at_the_threshold_with_a_tiny_chance() -> None:
    for threshold in np.linspace(0.2, 1, 33):
        rows = rows_per_band(float(threshold))
        assert (1 - threshold**rows) ** (FUNCTIONS // rows) <= MISSED
        positions = least_agreements(float(threshold))
        fewer = sum(
            math.comb(FUNCTIONS, n) * threshold**n * (1 - threshold) ** (FUNCTIONS - n) for n in range(positions)
        )
        assert fewer <= MISSED and positions <= FUNCTIONS * threshold


def test_other_shards_and_another_order_of_rows_give_the_same_groups(store: Store) -> None:
    rows = list(dict.fromkeys(planted(3)))
    first = pool(store, rows, shard_rows=7)
    dedup(store)
    again = pool(store, rows, "whole")
    dedup(store, "whole-c", pool="whole")
    assert again == first and kept(store, first, "whole-c") == kept(store, first)
    assert pairs(store, "whole-c") == pairs(store) != set()
    order = random.Random(5).sample(range(len(rows)), len(rows))
    pool(store, [rows[n] for n in order], "mixed")
    dedup(store, "mixed-c", pool="mixed")
    near = [{frozenset(pair[:2]) for pair in pairs(store, name) if pair[2] == "near"} for name in ("c", "mixed-c")]
    assert near[0] == near[1] != set()
    assert len(kept(store, first, "mixed-c")) == len(kept(store, first))


def test_bad_input_is_one_sentence_and_leaves_nothing(store: Store) -> None:
    pool(store, [("a", "b"), ("c", "d")])
    pool(store, [("A", "b"), ("C", "d")], "copy")
    with pytest.raises(ConfigError, match="the same pool"):
        dedup(store, against="pool")
    with pytest.raises(CurateError, match="Each of the 2 samples has a copy in the other pool"):
        dedup(store, against="copy")
    for values in ({"threshold": 0}, {"threshold": 1.1}, {"threshold": float("nan")}, {"by": "embedding"}):
        with pytest.raises(ConfigError):
            dedup(store, **values)
    with pytest.raises(CurateError, match="nothing"):
        dedup(store, against="nothing")
    assert not store.has("c")


def test_a_subset_is_trained_on_and_combined_like_others(store: Store) -> None:
    ids = pool(store, [("a", "b"), ("A", "b"), ("c", "d")])
    dedup(store)
    make(store, "subset", name="less", pool="pool", base=["c"])
    assert kept(store, ids, "less") == [0, 2]
    assert make(store, "export", name="out", subset="c", file_format="jsonl").rows == 2


def test_calls_of_tools_and_turns_are_part_of_the_prompt() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    user, answer = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
    one = split(Sample([user, call, {"role": "tool", "content": "5"}, answer]))
    two = split(Sample([user, call, {"role": "tool", "content": "6"}, answer]))
    assert one[0].key != two[0].key and one[1] == two[1] and '"name":"f"' in one[0].text
    assert normalize("Ⅷ ＡＢ") == "viii ab"
