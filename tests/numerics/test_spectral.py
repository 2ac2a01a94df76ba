"""Every method for nuclear norms finds the sum of the singular values, for real hidden states and for hard matrices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from curate.numerics.precision import full_float32
from curate.numerics.spectral import (
    FLOOR,
    STEPS,
    Method,
    method_for,
    nuclear_norm,
    nuclear_norm_of_rows,
    polynomials,
)
from curate.selectors import choose
from tests.support.paths import SHARED

METHODS: tuple[Method, ...] = ("eigh", "svdvals", "newton", "polar")


def norm_by(method: Method, rows: Tensor) -> Tensor:
    if method == "svdvals" or method == "polar":
        return nuclear_norm_of_rows(rows, method=method)
    side = (rows if rows.shape[-2] <= rows.shape[-1] else rows.mT).double()
    return nuclear_norm(side @ side.mT, method=method)


def of_spectrum(spectrum: Tensor, columns: int = 120) -> Tensor:
    """(1, n, columns) float32 with these singular values."""
    generator = torch.Generator().manual_seed(1)
    n = len(spectrum)
    left = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(columns, n, generator=generator, dtype=torch.float64)).Q
    return ((left * spectrum) @ right.mT).float()[None]


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


K = torch.arange(80, dtype=torch.float64)
AWKWARD: dict[str, Callable[[], Tensor]] = {
    "flat": lambda: noise(2, 50, 90),
    "more rows than columns": lambda: noise(2, 90, 50),
    "square": lambda: noise(2, 64, 64),
    "rank 1": lambda: noise(2, 70, 1) @ noise(1, 90),
    "rank 3": lambda: noise(2, 70, 3) @ noise(3, 90),
    "zero rows": lambda: torch.nn.functional.pad(noise(2, 20, 90), (0, 0, 0, 50)),
    "down to 1e-8": lambda: of_spectrum(10 ** (-8 * K / 79)),
    "down to 1e-3": lambda: of_spectrum(10 ** (-3 * K / 79)),
    "1/k": lambda: of_spectrum(1 / (K + 1)),
    "1/k²": lambda: of_spectrum(1 / (K + 1) ** 2),
    "one and a floor of 1e-3": lambda: of_spectrum(torch.where(K == 0, 1.0, 1e-3)),
    "one and a floor of 1e-5": lambda: of_spectrum(torch.where(K == 0, 1.0, 1e-5)),
    "huge": lambda: noise(2, 50, 90) * 1e15,
    "small": lambda: noise(2, 50, 90) * 1e-12,
    "one row": lambda: noise(2, 1, 90),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", AWKWARD)
def test_every_method_is_within_a_ten_thousandth_of_the_singular_values(method: Method, name: str) -> None:
    rows = AWKWARD[name]()
    wanted = torch.linalg.svdvals(rows.double()).sum(-1)
    torch.testing.assert_close(norm_by(method, rows), wanted, rtol=2e-5, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_matrix_of_zeros_has_norm_zero_and_leaves_its_neighbours_alone(method: Method) -> None:
    rows = noise(3, 40, 60)
    rows[1] = 0
    found = norm_by(method, rows)
    assert found[1] == 0
    torch.testing.assert_close(found[[0, 2]], norm_by(method, rows[[0, 2]]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_methods_agree_and_keep_the_same_on_hidden_states_of_a_language_model(method: Method) -> None:
    rows = rows_of_texts()
    wanted = torch.linalg.svdvals(rows.double()).sum(-1)
    found = norm_by(method, rows)
    torch.testing.assert_close(found, wanted, rtol=2e-6, atol=0)
    for k in (1, 4, 12):
        assert choose(found, k).tolist() == choose(wanted, k).tolist()


def rows_of_texts() -> Tensor:
    """H R of 24 texts of a pool under a trained model, padded."""
    if not (SHARED / "models/base2m").exists():
        pytest.skip("the trained model and the pool are not available")
    import pyarrow.parquet as pq

    from curate.lm.model.config_checks import ModelOptions
    from curate.lm.model.load import load_model
    from curate.lm.model.scoring_model import make_scoring_model
    from curate.numerics.head import Head

    place = str(SHARED / "models/base2m")
    scoring_model = make_scoring_model(load_model(ModelOptions(place)).eval())
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place)
    texts = [str(row) for row in pq.read_table(SHARED / "data/pool6k/pool.parquet").slice(0, 24).to_pylist()]
    ids = [torch.tensor(tokenizer(text)["input_ids"][: 40 + 8 * i]) for i, text in enumerate(texts)]
    batch = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    mask = torch.arange(batch.shape[1])[None] < torch.tensor([len(row) for row in ids])[:, None]
    with torch.no_grad():
        hidden = scoring_model.hidden(batch, mask) * mask[..., None]
        return Head(scoring_model.head.weight).rows(hidden)


def test_ten_steps_bring_all_that_counts_to_one() -> None:
    x = torch.logspace(-9, 0, 2001, dtype=torch.float64)
    q = x.clone()
    for a, b, c in polynomials():
        q = a * q + b * q**3 + c * q**5
    assert len(polynomials()) == STEPS
    assert (1 - q[x >= FLOOR]).abs().max() < 1e-5
    assert (x * (1 - q))[x < FLOOR].max() < 1e-6
    assert q.max() < 1 + 1e-6


def test_half_the_digits_of_a_gram_matrix_are_gone_which_is_why_it_is_float64() -> None:
    rows = AWKWARD["rank 3"]()
    wanted = torch.linalg.svdvals(rows.double()).sum(-1)
    single = nuclear_norm(rows @ rows.mT).double()
    assert ((single - wanted).abs() / wanted).max() > 1e-4


def test_the_rule_by_device_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert method_for(torch.device("cpu"), 512) == "eigh"
    assert method_for(torch.device("mps"), 512) == "polar"
    for capability, size, wanted in [((9, 0), 512, "newton"), ((9, 0), 16, "eigh"), ((8, 9), 512, "polar")]:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert method_for(torch.device("cuda"), size) == wanted


def test_what_was_set_for_training_does_not_touch_precision() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with full_float32():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
