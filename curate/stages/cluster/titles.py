"""Name clusters by the words that their texts have and others have not.

Words are weighed by c-TF-IDF (Grootendorst 2022, BERTopic, equation 2): the weight of word t in cluster c is
tf_{t,c} · log(1 + A / f_t), where f_t is the frequency of the word in all clusters and A the mean number of words of a
cluster. Differences from the source: a word counts once in a text, so that one text that repeats it names nothing;
tf_{t,c} is the share of the cluster's texts that have the word; and only words are ranked that are more frequent in
the cluster than outside it, so that words of a prompt's template name no cluster even where there are few.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from string import digits
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .stop_words import all_stop_words, written
from .words import is_pair, joined, words_of

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from ...store.vectors.vectors import Positions

Floats = npt.NDArray[np.float64]

KEYWORDS, TITLE_WORDS = 8, 4
LIFT = 1.5
"""Least frequency of a keyword in its cluster, as a multiple of that outside."""
FEW = 4
"""Size of a cluster from which on a keyword must be in two of its texts."""
ALIKE = 4
"""Letters by which a word may be longer than another form of it: "sentence" and "sentences" are one keyword, and so are
"answer1" and "answer2"."""
NO_WORDS = "(no words of its own)"
EMPTY = "(empty)"


@dataclass(frozen=True)
class Title:
    """Name of a cluster.

    Attributes:
        text: the first keywords, or a note in brackets if there is none.
        keywords: the words, the most telling first.
    """

    text: str
    keywords: tuple[str, ...]


def titles_of(texts: Sequence[str], clusters: Positions, sizes: Positions) -> list[Title]:
    """Return the title of each cluster.

    Args:
        texts: n texts: all of the clusters, or some of each.
        clusters: (n,) cluster of each text.
        sizes: (k,) number of texts of each cluster, with those that are not among `texts`.
    """
    read = np.bincount(clusters, minlength=len(sizes))
    words, counts = _counts(texts, clusters, len(sizes))
    if not words:
        return [Title(NO_WORDS if size else EMPTY, ()) for size in sizes.tolist()]
    shares = counts.multiply(1 / np.maximum(read, 1)[:, None]).tocsr()
    everywhere = np.asarray(shares.multiply(sizes[:, None]).sum(axis=0)).ravel()
    mean_words = everywhere.sum() / len(sizes)
    special = np.array([word in all_stop_words() or is_pair(word) for word in words])
    found = []
    for cluster, size in enumerate(sizes.tolist()):
        row = shares[cluster]
        known = special[row.indices]
        own = {words[place]: share for place, share in zip(row.indices[known], row.data[known].tolist(), strict=True)}
        weights = row.data * np.log1p(mean_words / everywhere[row.indices])
        outside = (everywhere[row.indices] - size * row.data) / max(sizes.sum() - size, 1)
        texts_with = row.data * read[cluster]
        kept = (row.data >= LIFT * outside) & (texts_with >= (2 if read[cluster] >= FEW else 1) - 1e-9)
        order = np.lexsort((row.indices, -weights))
        ranked = (words[row.indices[place]] for place in order.tolist() if kept[place])
        keywords = tuple(islice(_distinct(ranked, own, int(read[cluster])), KEYWORDS))
        text = ", ".join(keywords[:TITLE_WORDS]) or (NO_WORDS if size else EMPTY)
        found.append(Title(text, keywords))
    return found


def _counts(texts: Sequence[str], clusters: Positions, k: int) -> tuple[list[str], csr_matrix]:
    """Return the words in alphabetical order, and (k, words) the number of texts of each cluster that have them."""
    import scipy.sparse as sparse
    from sklearn.feature_extraction.text import CountVectorizer

    n = len(texts)
    if not any(words_of(text) for text in texts):
        return [], sparse.csr_matrix((k, 0))
    vectorizer = CountVectorizer(analyzer=words_of, binary=True, dtype=np.int32, token_pattern=None)
    has = vectorizer.fit_transform(texts)
    member = sparse.csr_matrix((np.ones(n), (clusters, np.arange(n))), shape=(k, n))
    return vectorizer.get_feature_names_out().tolist(), sparse.csr_matrix(member @ has)


def _distinct(ranked: Iterator[str], shares: Mapping[str, float], read: int) -> Iterator[str]:
    """Yield the ranked words without function words, other forms of a word, and parts of a longer one.

    Args:
        ranked: words, the most telling first.
        shares: function word, or pair of Chinese characters -> share of the cluster's texts that have it.
        read: number of these texts.
    """
    stop = written(shares)
    pairs = {word: share * read for word, share in shares.items() if is_pair(word)}
    taken: list[str] = []
    for word in ranked:
        if word in stop or any(_alike(word, other) for other in taken):
            continue
        whole = joined(word, pairs) if word in pairs else word
        taken.append(whole)
        yield whole


def _alike(word: str, taken: str) -> bool:
    """Return whether a word is a part or another form of one that is taken."""
    if is_pair(word):
        return word in taken
    one, two = sorted((word.rstrip(digits), taken.rstrip(digits)), key=len)
    return one == two or (len(one) >= 4 and two.startswith(one) and len(two) - len(one) <= ALIKE)
