"""Head: the formula, the effective vocabulary, and precision for half weights."""

from __future__ import annotations

import pytest
import torch

from pipeline import console
from pipeline.models import head as head_module
from pipeline.models.head import Head, has_wide_product, product_float32


def _dense(hidden, weight, bias, scale, softcap, num_effective):
    logits = hidden.double() @ weight.double().T
    if bias is not None:
        logits = logits + bias.double()
    logits = logits * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return logits[:, :num_effective]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.0625])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("num_effective", [None, 1, 77])
def test_logits_are_the_formula_in_float32(dtype, has_bias, scale, softcap, num_effective):
    torch.manual_seed(0)
    hidden, weight = torch.randn(5, 16).to(dtype), torch.randn(80, 16).to(dtype)
    bias = torch.randn(80).to(dtype) if has_bias else None
    logits = Head(weight, bias, scale, softcap, num_effective).logits_float32(hidden)
    assert logits.dtype == torch.float32
    expected = _dense(hidden, weight, bias, scale, softcap, num_effective)
    assert logits.shape == expected.shape
    torch.testing.assert_close(logits.double(), expected, rtol=1e-5, atol=1e-5)


def test_half_weights_are_upcast_in_blocks_that_join_up(monkeypatch):
    monkeypatch.setattr("pipeline.models.head._UPCAST_ROWS", 7)
    hidden, weight = torch.randn(3, 8).half(), torch.randn(20, 8).half()
    torch.testing.assert_close(product_float32(hidden, weight), hidden.float() @ weight.float().T)


def test_half_hidden_states_meet_float32_weights_in_float32():
    hidden, weight = torch.randn(3, 8).half(), torch.randn(20, 8)
    torch.testing.assert_close(product_float32(hidden, weight), hidden.float() @ weight.T)


def test_autocast_around_it_changes_nothing():
    head, hidden = Head(torch.randn(20, 8)), torch.randn(3, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head.logits_float32(hidden)
    assert torch.equal(inside, head.logits_float32(hidden))


def test_without_a_weight_the_hidden_states_are_the_logits_and_stay_untouched():
    hidden = torch.randn(3, 10)
    head = Head(None, num_effective=7)
    logits = head.logits_float32(hidden)
    assert torch.equal(logits, hidden[:, :7])
    assert logits.data_ptr() != hidden.data_ptr()
    assert head.vocab_size == 7


def test_gradients_reach_the_live_weight_through_the_field():
    weight = torch.nn.Parameter(torch.randn(6, 4))
    head = Head(weight, num_effective=5)
    (torch.randn(2, 4) @ head.weight_VD[:5].T).sum().backward()
    assert weight.grad is not None
    assert head.vocab_size == 5


def test_a_vocabulary_larger_than_the_matrix_is_refused():
    with pytest.raises(ValueError, match=r"vocabulary has 81 ids and the output matrix only 80 rows"):
        Head(torch.randn(80, 4), num_effective=81)
    with pytest.raises(ValueError, match="only 10 rows"):
        Head(None, num_effective=11).logits_float32(torch.randn(1, 10))


def test_a_bias_of_another_size_and_a_scale_without_weight_are_refused():
    with pytest.raises(ValueError, match="bias of shape"):
        Head(torch.randn(8, 4), torch.randn(7))
    with pytest.raises(ValueError, match="have no place"):
        Head(None, scale=2.0)


# ------------------------------------------------------------------ which product a card has


@pytest.fixture
def refused(monkeypatch):
    """A device whose products raise `refused[0]`; the calls are counted in `refused[1]`."""
    state = [RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasGemmEx`"), 0]

    def refuse(*arguments, **keywords):
        state[1] += 1
        raise state[0]

    monkeypatch.setattr(torch, "mm", refuse)
    monkeypatch.setattr(console, "_said", set())
    has_wide_product.cache_clear()
    yield state
    has_wide_product.cache_clear()


def test_a_device_without_the_wide_product_is_asked_once_and_that_is_said_once(refused, capsys):
    cpu = torch.device("cpu")
    assert [has_wide_product(cpu, torch.float16) for _ in range(3)] == [False] * 3
    assert refused[1] == 1
    assert capsys.readouterr().err.count("cpu: has no product of float16 that leaves in float32") == 1
    assert not has_wide_product(cpu, torch.bfloat16)
    assert refused[1] == 2


def test_a_full_card_decides_nothing(refused):
    refused[0] = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="ALLOC_FAILED"):
            has_wide_product(torch.device("cpu"), torch.float16)
    assert refused[1] == 2


class _OnCard(torch.Tensor):
    """A tensor that says it is on a card."""

    is_cuda = True


def test_once_it_is_there_a_failing_product_is_an_error_and_no_other_arithmetic(refused, monkeypatch):
    weight = torch.randn(20, 8).half().as_subclass(_OnCard)
    monkeypatch.setattr(head_module, "has_wide_product", lambda device, dtype: True)
    with pytest.raises(RuntimeError, match="NOT_SUPPORTED"):
        product_float32(torch.randn(3, 8).half(), weight)
    monkeypatch.setattr(head_module, "has_wide_product", lambda device, dtype: False)
    hidden = torch.randn(3, 8).half()
    assert torch.equal(product_float32(hidden, weight), hidden.float() @ weight.float().T)
