"""Tiny sentence encoders with random weights: one of sentence-transformers, one of model2vec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

WORDS = ("add", "and", "the", "of", "what", "is", "count", "say", "it", *map(str, range(130)), *".,?!+", "<unk>")


def word_tokenizer(folder: Path) -> Any:
    """Return a tokenizer that knows `WORDS`, as `tokenizers` has it, and save it."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import WordLevel

    tokenizer = Tokenizer(WordLevel({"<pad>": 0, **{word: n + 1 for n, word in enumerate(WORDS)}}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


@pytest.fixture(scope="session")
def sentence_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a two-layer BERT with mean pooling, 24 numbers a vector, of sentence-transformers."""
    pytest.importorskip("sentence_transformers", reason="sentence-transformers (extra encoders) is not installed")
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = word_tokenizer(folder / "bert")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=64, initializer_range=0.5, **sizes
    )
    BertModel(config).save_pretrained(folder / "bert")
    fast.save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"))
    transformer.max_seq_length = 40
    model = SentenceTransformer(modules=[transformer, Pooling(24, pooling_mode="mean")], device="cpu")
    model.save(str(folder / "saved"), create_model_card=False)
    return str(folder / "saved")


@pytest.fixture(scope="session")
def static_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a model2vec model with random vectors of 16 numbers."""
    pytest.importorskip("model2vec", reason="model2vec (extra encoders) is not installed")
    import numpy as np
    from model2vec import StaticModel

    folder = tmp_path_factory.mktemp("static")
    tokenizer = word_tokenizer(folder / "words")
    vectors = np.random.default_rng(0).normal(size=(tokenizer.get_vocab_size(), 16)).astype(np.float32)
    StaticModel(vectors=vectors, tokenizer=tokenizer).save_pretrained(folder / "saved")
    return str(folder / "saved")
