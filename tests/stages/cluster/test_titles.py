"""Titles of clusters: the fast weights against loops, words of many scripts, and what SQL and the summary say."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from curate import samples
from curate.config import Config
from curate.runtime.terminal import summary
from curate.samples import Sample, expand
from curate.stages.cluster import naming
from curate.stages.cluster.titles import EMPTY, LIFT, NO_WORDS, titles_of
from curate.stages.cluster.words import joined, words_of
from curate.store import Draft, Store
from tests.stages.cluster.test_cluster import WIDTH, cluster
from tests.support.report_payloads import HOSTILE

TOPICS = {
    "cooking": ["recipe", "bake", "oven", "flour", "sugar"],
    "astronomy": ["planet", "orbit", "star", "telescope", "comet"],
    "law": ["contract", "court", "judge", "statute", "appeal"],
}
TEMPLATE = "You are given a question. Please answer the question below: 12 {} and {} of the {}?"


def questions(words: list[str], count: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return [TEMPLATE.format(*chance.sample(words, 2), chance.choice(words)) for _ in range(count)]


def slow_keywords(texts: list[str], clusters: list[int], k: int) -> list[list[str]]:
    """The words of each cluster that are more frequent in it than outside, by c-TF-IDF, with plain loops."""
    found = []
    has = [set(words_of(text)) for text in texts]
    count = {word: [0] * k for words in has for word in words}
    for words, number in zip(has, clusters, strict=True):
        for word in words:
            count[word][number] += 1
    mean_words = sum(map(sum, count.values())) / k
    for number in range(k):
        size, others = clusters.count(number), len(clusters) - clusters.count(number)
        weight = {
            word: n[number] / size * math.log(1 + mean_words / sum(n))
            for word, n in count.items()
            if n[number] >= 2 and n[number] / size >= LIFT * (sum(n) - n[number]) / others
        }
        found.append(sorted(weight, key=lambda word: (-weight[word], word)))
    return found


def test_keywords_are_those_of_plain_loops() -> None:
    texts = [text for words in TOPICS.values() for text in questions(words, 30)]
    clusters = [number for number in range(len(TOPICS)) for _ in range(30)]
    titles = titles_of(texts, np.array(clusters), np.bincount(clusters))
    slow = slow_keywords(texts, clusters, len(TOPICS))
    assert [list(title.keywords) for title in titles] == slow
    assert [set(words) for words in slow] == [set(words) for words in TOPICS.values()]
    assert [title.text for title in titles] == [", ".join(words[:4]) for words in slow]


def test_words_of_the_template_name_nothing_even_in_two_clusters() -> None:
    texts = questions(TOPICS["law"], 20) + questions(TOPICS["cooking"], 20)
    for title in titles_of(texts, np.repeat([0, 1], 20), np.array([20, 20])):
        assert not {"question", "given", "answer", "you", "the", "below", "please"} & set(title.keywords)


def test_a_part_of_the_texts_counts_for_all_of_them() -> None:
    texts = [text for words in TOPICS.values() for text in questions(words, 40)]
    clusters = np.repeat(np.arange(3), 40)
    whole = titles_of(texts, clusters, np.array([40, 40, 40]))
    doubled = titles_of(texts, clusters, np.array([80, 80, 80]))
    assert whole == doubled


def test_a_text_that_repeats_a_word_names_nothing() -> None:
    texts = [*questions(TOPICS["law"], 10), "spam " * 150, *questions(TOPICS["cooking"], 11)]
    title, _ = titles_of(texts, np.repeat([0, 1], 11), np.array([11, 11]))
    assert "spam" not in title.keywords


def test_numbers_and_empty_clusters_have_a_plain_title() -> None:
    texts = ["12 + 7 = ?", "3.5 - 2", "77", "100 %", "bake a cake", "bake bread", "bake pies", "bake buns"]
    numbers, words, empty = titles_of(texts, np.repeat([0, 1], 4), np.array([4, 4, 0]))
    assert (numbers.text, numbers.keywords) == (NO_WORDS, ())
    assert words.text == "bake" and empty.text == EMPTY
    assert [title.text for title in titles_of(["1", "2"], np.array([0, 1]), np.array([1, 1, 0]))] == [
        NO_WORDS, NO_WORDS, EMPTY,
    ]  # fmt: skip
    assert [title.text for title in titles_of([], np.array([], int), np.array([2, 0]))] == [NO_WORDS, EMPTY]


CHINESE = [
    "请写一首关于春天的诗",
    "请解释什么是人工智能",
    "人工智能如何改变教育",
    "人工智能的历史",
    "介绍一下人工智能",
    "春天的诗",
]
JAPANESE = ["スクリプトを書いてください", "このスクリプトは何をしますか", "日本の歴史について", "スクリプトの日本語"]
CODE = [
    "def parse_json(text): return json.loads(text)", "Why does json.loads(self.text) fail in C++?",
    "class Parser: def parse_json(self, text): pass", "C++: parse_json(std::string text)",
]  # fmt: skip
GERMAN = [
    "Was ist die Hauptstadt der Schweiz und warum?", "Nenne die Hauptstadt von Peru, die nicht in den Bergen ist.",
    "Wie groß ist die Hauptstadt und wer ist dort?", "Die Hauptstadt: ist sie nicht die älteste und die größte?",
]  # fmt: skip
WAR = ["The war of the roses: who won the war?", "Who must die in a war?", "Men die in the war.", "Can a war die?"]


def test_titles_of_other_scripts_and_of_code_are_words() -> None:
    groups = [CHINESE, JAPANESE, CODE, GERMAN, WAR]
    clusters = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    texts = [text for group in groups for text in group]
    chinese, japanese, code, german, war = titles_of(texts, clusters, np.bincount(clusters))
    assert chinese.keywords[0] == "人工智能" and not {"工智", "人工", "什么", "一个"} & set(chinese.keywords)
    assert japanese.keywords[0] == "スクリプト" and "日本" in japanese.keywords
    assert {"c++", "json", "parse"} <= set(code.keywords) and "parse_json" not in code.keywords
    assert german.keywords[0] == "hauptstadt" and not {"die", "der", "und", "ist", "nicht"} & set(german.keywords)
    assert war.keywords[:2] == ("war", "die"), "a function word of German is a topic in English"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x1 mp3 42 7.5 2nd", ["x1", "mp3", "nd"]),
        ("don't l'homme C# c++ a", ["don", "homme", "c#", "c++"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("ﬁne Ｆｕｌｌ \u202eabc\x1b[31m \ud800", ["fine", "full", "abc"]),
        ("f" * 31 + " ok", ["ok"]),
        ("図書館へ行く", ["図書", "書館"]),
    ],
)
def test_words_begin_with_a_letter(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_pairs_of_a_longer_word_are_joined_if_they_come_together() -> None:
    pairs = {"人工": 10.0, "工智": 9.0, "智能": 10.0, "能力": 2.0}
    assert joined("人工", pairs) == joined("智能", pairs) == joined("工智", pairs) == "人工智能"
    assert joined("能力", pairs) == "能力"


def store_with(root: Path, texts: list[str], clusters: list[int], *, answers: bool = False) -> Store:
    """A store with a pool of these prompts and features in which a cluster is a direction; answers: the second ones."""
    store = Store(root)
    pool = [
        Sample([
            *([{"role": "user", "content": "other"}, {"role": "assistant", "content": "x"}] if answers else []),
            {"role": "user", "content": text}, {"role": "assistant", "content": f"{number}"},
        ])
        for number, text in enumerate(texts)
    ]  # fmt: skip
    ids = [expand(sample)[1].sample_id if answers else sample.sample_id for sample in pool]
    made = store.make("ingest", lambda draft: draft.write(0, samples.to_table(pool, 0)), Config(name="pool"))
    matrix = np.eye(WIDTH, dtype=np.float16)[clusters]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), WIDTH)

    def fill(draft: Draft) -> None:
        draft.write(0, pa.table({"sample_id": ids, "sketch": vectors, "embedding": vectors}))

    store.make("embed", fill, Config(name="feats"), {"pool": made.fingerprint})
    return store


@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize("most", [100_000, 30])
def test_titles_are_in_sql_and_in_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool, most: int
) -> None:
    monkeypatch.setattr(naming, "READ_SAMPLES", most)
    sizes = {"law": 30, "cooking": 20, "astronomy": 10}
    texts = [text for name, size in sizes.items() for text in questions(TOPICS[name], size)]
    labels = [number for number, size in enumerate(sizes.values()) for _ in range(size)]
    store = store_with(tmp_path / "store", texts, labels, answers=answers)
    made = cluster(store, nearest=False)
    rows = store.query("SELECT * FROM cluster_titles ORDER BY cluster").to_pylist()
    assert [(row["clusters"], row["size"]) for row in rows] == [("clusters", size) for size in sizes.values()]
    for row, name in zip(rows, sizes, strict=True):
        assert set(row["keywords"]) == set(TOPICS[name]) and row["title"] == ", ".join(row["keywords"][:4])
    first = store.query("SELECT cluster, sample_id FROM clusters WHERE representative = 1 ORDER BY 1").to_pylist()
    assert [row["sample_id"] for row in first] == [row["representative_id"] for row in rows]
    assert [row["title"] for row in made.summary["largest"]] == [row["title"] for row in rows]
    assert made.summary["largest"][0]["representatives"].startswith(texts[0][:60])


def test_the_summary_is_bounded_and_hostile_prompts_are_shown_as_text(tmp_path: Path) -> None:
    hostile = [text for text in (*HOSTILE, "\x1b]0;title\x07 \u202e \x9b31m") if text.isprintable() or "\x1b" in text]
    texts = [f"{hostile[number % len(hostile)]} {number} {'long ' * 200}" for number in range(WIDTH)]
    store = store_with(tmp_path / "store", texts, list(range(WIDTH)))
    lines = summary(cluster(store, k=12, nearest=False).summary)
    assert len(lines) < 30 and not any(set(line) & set("\x1b\x07\n\r\u202e\x9b") for line in lines)
    titles: list[dict[str, Any]] = store.query("SELECT title FROM cluster_titles").to_pylist()
    assert all(not set(row["title"]) & set("<>&\x1b\x07\n\u202e") for row in titles)
