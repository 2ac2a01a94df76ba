"""Everything computed from hidden states equals the same computed from full logits."""

from __future__ import annotations

import pytest
import torch

from curate.numerics.head import Head
from curate.numerics.losses import IGNORE, next_token_labels, token_losses
from curate.numerics.spectral import frobenius_norm, nuclear_norm
from curate.numerics.srft import TwoSided

HEADS = {
    "plain": {},
    "biased": {"bias": True},
    "scaled": {"scale": 0.0625},
    "biased and scaled": {"bias": True, "scale": 3.0},
    "soft-capped": {"softcap": 5.0},
}


def head_of(kind: str, vocab: int = 300, d: int = 24, dtype: torch.dtype = torch.float32) -> Head:
    generator = torch.Generator().manual_seed(0)
    options = dict(HEADS[kind])
    bias = torch.randn(vocab, generator=generator).to(dtype) if options.pop("bias", False) else None
    return Head(torch.randn(vocab, d, generator=generator).to(dtype), bias, **options)


def hidden_of(batch: int = 3, length: int = 40, d: int = 24, pad: int = 7) -> torch.Tensor:
    hidden = torch.randn(batch, length, d, generator=torch.Generator().manual_seed(1))
    hidden[0, length - pad :] = 0
    return hidden


def logits_of(head: Head, hidden: torch.Tensor) -> torch.Tensor:
    """Return full logits in float64, zero where the text is padding: the slow, obvious twin of everything below."""
    z = hidden.double() @ head.weight.double().T
    z = (z if head.bias is None else z + head.bias.double()) * head.scale
    z = z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)
    return z * (hidden != 0).any(-1, keepdim=True)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("length", [5, 24, 40])
def test_the_nuclear_norm_is_the_sum_of_the_singular_values_of_the_logits(kind: str, length: int) -> None:
    head, hidden = head_of(kind), hidden_of(length=length, pad=2)
    wanted = torch.linalg.svdvals(logits_of(head, hidden)).sum(-1)
    torch.testing.assert_close(nuclear_norm(head.gram(hidden)), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", HEADS)
def test_the_frobenius_norm_comes_from_the_same_gram_matrix(kind: str) -> None:
    head, hidden = head_of(kind), hidden_of()
    wanted = torch.linalg.matrix_norm(logits_of(head, hidden))
    torch.testing.assert_close(frobenius_norm(head.gram(hidden)), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", HEADS)
def test_the_sketch_is_the_fourier_transform_of_the_logits(kind: str) -> None:
    head, hidden = head_of(kind), hidden_of()
    srft = TwoSided.draw(d1=4, d2=16, max_length=64, vocab_size=head.vocab_size, seed=3)
    wanted = srft.reference(logits_of(head, hidden))
    torch.testing.assert_close(head.sketch(hidden, srft).double(), wanted, rtol=0, atol=2e-5 * float(wanted.norm()))


@pytest.mark.parametrize("rank", [1, 3, 10])
@pytest.mark.parametrize("length", [16, 64])
def test_low_rank_hidden_states_keep_their_digits(rank: int, length: int) -> None:
    head = head_of("plain", d=32)
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(2, length, rank, generator=generator) @ torch.randn(rank, 32, generator=generator)
    wanted = torch.linalg.svdvals(logits_of(head, hidden)).sum(-1)
    torch.testing.assert_close(nuclear_norm(head.gram(hidden)), wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", HEADS)
def test_padding_changes_neither_norm_nor_sketch(kind: str) -> None:
    head, short = head_of(kind), hidden_of(batch=1, length=9, pad=0)[:, :9]
    long = torch.nn.functional.pad(short, (0, 0, 0, 30))
    srft = TwoSided.draw(d1=4, d2=16, max_length=64, vocab_size=head.vocab_size, seed=3)
    torch.testing.assert_close(nuclear_norm(head.gram(long)), nuclear_norm(head.gram(short)), rtol=1e-6, atol=0)
    torch.testing.assert_close(head.sketch(long, srft), head.sketch(short, srft), rtol=1e-4, atol=1e-3)


def test_a_half_precision_head_is_read_in_float32() -> None:
    head, hidden = head_of("plain", dtype=torch.bfloat16), hidden_of()
    wanted = torch.linalg.svdvals(logits_of(head, hidden)).sum(-1)
    torch.testing.assert_close(nuclear_norm(head.gram(hidden)), wanted, rtol=1e-6, atol=0)


def test_a_head_that_changed_is_seen_after_a_refresh() -> None:
    head, hidden = head_of("plain"), hidden_of()
    before = nuclear_norm(head.gram(hidden))
    head.refresh(head.weight * 2)
    torch.testing.assert_close(nuclear_norm(head.gram(hidden)), before * 2)


@pytest.mark.parametrize("kind", HEADS)
def test_losses_and_entropies_in_slices_equal_those_of_full_logits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.numerics.head.SLICE_BYTES", 4 * 300 * 7)
    head, hidden = head_of(kind), hidden_of(pad=0)
    labels = torch.randint(0, 300, hidden.shape[:2], generator=torch.Generator().manual_seed(4))
    labels[1, :20] = IGNORE
    targets = next_token_labels(labels)
    losses, entropies, ranks = token_losses(head, hidden, targets, entropy=True, ranks=True)
    assert entropies is not None and ranks is not None
    log_p = torch.log_softmax(logits_of(head, hidden), -1)
    wanted = torch.nn.functional.cross_entropy(log_p.mT, targets, reduction="none", ignore_index=IGNORE)
    torch.testing.assert_close(losses.double(), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        entropies.double(), -(log_p.exp() * log_p).sum(-1) * (targets != IGNORE), rtol=1e-4, atol=1e-5
    )
    own = log_p.gather(-1, targets.clamp_min(0)[..., None])
    assert torch.equal(ranks, (1 + (log_p > own).sum(-1)).float() * (targets != IGNORE))
    assert (losses[targets == IGNORE] == 0).all()
