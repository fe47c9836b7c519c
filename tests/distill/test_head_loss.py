"""The precision of the products, and the sizes of what is worked on."""

from __future__ import annotations

import pytest
import torch

from pipeline.distill.loss import head_loss
from pipeline.distill.loss.head_loss import HeadGradients, product_dtype
from pipeline.models.head import Head


def test_float16_products_keep_rows_of_any_size() -> None:
    """Rows of gradient from 1e-9 to 1e4: each row of the hidden gradient is right to float16's own precision.

    Cast as they are, the small rows would be zeros and the large ones infinite.
    """
    generator = torch.Generator().manual_seed(0)
    sizes_n1 = 10.0 ** torch.arange(-9.0, 5.0)[:, None]
    gradient_nV = torch.randn(14, 50, generator=generator).mul_(sizes_n1)
    hidden_nD, weight_VD = (torch.randn(count, 8, generator=generator).half() for count in (14, 50))
    head = Head(weight_VD)
    gradients = HeadGradients.blank(hidden_nD, head, (True, True, False))
    gradients.add(slice(0, 14), gradient_nV.clone(), hidden_nD, head)

    expected_nD = gradient_nV.double() @ weight_VD.double()
    expected_VD = gradient_nV.double().T @ hidden_nD.double()
    error_n = (gradients.hidden_ND.double() - expected_nD).norm(dim=1) / expected_nD.norm(dim=1)
    assert error_n.max() < 1e-3
    assert (gradients.weight_VD.double() - expected_VD).norm() / expected_VD.norm() < 1e-3
    assert gradient_nV[0].half().count_nonzero() == 0  # what a plain cast leaves of the smallest row


def test_rows_without_gradient_stay_zero() -> None:
    hidden_nD, head = torch.ones(3, 4).half(), Head(torch.ones(5, 4).half())
    gradients = HeadGradients.blank(hidden_nD, head, (True, True, False))
    gradients.add(slice(0, 3), torch.zeros(3, 5), hidden_nD, head)
    assert (gradients.hidden_ND == 0).all()
    assert (gradients.weight_VD == 0).all()


@pytest.mark.parametrize(
    ("hidden", "weight", "expected"),
    [
        (torch.float32, torch.float32, torch.float32),
        (torch.float16, torch.float16, torch.float16),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float32, torch.float32),
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float64, torch.float64, torch.float32),
    ],
)
def test_product_dtype(hidden: torch.dtype, weight: torch.dtype, expected: torch.dtype) -> None:
    hidden_ND, weight_VD = torch.ones(2, 3, dtype=hidden), torch.ones(4, 3, dtype=weight)
    assert product_dtype(hidden_ND, weight_VD) is expected
    with torch.autocast("cpu", torch.bfloat16):
        assert product_dtype(hidden_ND, weight_VD) is torch.bfloat16


def test_blocks_of_a_chunk_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.distill.test_losses import make_case

    case = make_case("softcap")
    expected = torch.autograd.grad(case.loss(temperature=2.0).loss, case.leaves)
    monkeypatch.setitem(head_loss._BLOCK_BYTES, "cpu", 1)  # a block a position
    found = torch.autograd.grad(case.loss(temperature=2.0).loss, case.leaves)
    for ours, whole in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-7)
