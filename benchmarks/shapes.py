"""What the benchmarks of a step share: models of Qwen2.5's shapes with random weights, random texts, clock and peak."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from curate.lm.tokens.token_table import TokenTable

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
    | {"num_key_value_heads": 2, "vocab_size": 8192, "tie_word_embeddings": True},
    "qwen2.5-0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
    | {"num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True},
    "qwen2.5-1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12}
    | {"num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True},
    "qwen2.5-7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    | {"num_key_value_heads": 4, "vocab_size": 152_064, "tie_word_embeddings": False},
}


def adapted_model(shape: dict[str, Any], *, device: str, dtype: str, attention: str | None = None) -> nn.Module:
    """Random weights with LoRA (r = 8) on all linear layers; the base in `dtype`."""
    import transformers

    from curate.lm.model.load import add_lora

    torch.manual_seed(0)
    config = transformers.Qwen2Config(**shape, max_position_embeddings=32_768, pad_token_id=0)
    options = {"attn_implementation": attention} if attention else {}
    with torch.device(device):
        base = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), **options)
    return add_lora(base, r=8, alpha=16, dropout=0.0, target_modules="all-linear").to(device)


def random_texts(vocab: int, count: int, length: int, *, mixed: bool = False) -> TokenTable:
    """Texts of random tokens, every token a target; `mixed`: from a quarter of the length."""
    from curate.lm.tokens.encode import Encoded
    from curate.lm.tokens.token_table import TokenTable

    rng = np.random.default_rng(0)
    lengths = rng.integers(length // 4 if mixed else length, length + 1, size=count)
    texts = (rng.integers(10, vocab, size=n).astype(np.int32) for n in lengths)
    return TokenTable((i, str(i), Encoded(ids, np.ones(len(ids), bool), len(ids))) for i, ids in enumerate(texts))


def synchronize() -> None:
    """Until the GPU has caught up."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def clock(run: Callable[[], Any]) -> float:
    """Seconds of one run."""
    synchronize()
    began = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - began


def median_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median of several runs, after one that does not count."""
    return statistics.median([clock(run) for _ in range(repeats + 1)][1:])


class Peak:
    """Most memory since it was made."""

    def __init__(self) -> None:
        self.cuda = torch.cuda.is_available()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            ctypes.CDLL(None).malloc_trim(0)  # what is free but not given back would count as there
            Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
            self.before = self._resident("VmRSS")

    def bytes(self) -> int:
        """On a GPU all that is allocated, weights included; on a CPU what the process has grown by."""
        return torch.cuda.max_memory_allocated() if self.cuda else self._resident("VmHWM") - self.before

    @staticmethod
    def _resident(which: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(which))
