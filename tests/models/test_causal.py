"""CausalModel: head and isolation of real architectures, and what falls back or is refused."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

from pipeline import console
from pipeline.errors import ConfigError, MachineError
from pipeline.models import CausalModel, causal
from tests import tiny

_MORE_ARCHITECTURES = {
    "cohere": tiny._LLAMA_LIKE | {"logit_scale": 0.25},
    "granite": tiny._LLAMA_LIKE | {"logits_scaling": 8.0},
    "phi": tiny._LLAMA_LIKE,
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "gemma3_text": tiny._LLAMA_LIKE | {"head_dim": 8, "final_logit_softcapping": 1.5},
    "recurrent_gemma": tiny._LLAMA_LIKE | {"num_hidden_layers": 3, "lru_width": 32, "logits_soft_cap": 2.5},
}


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch):
    monkeypatch.setattr(console, "_said", set())


def _make(model_type: str, monkeypatch: pytest.MonkeyPatch, **changes):
    monkeypatch.setattr(tiny, "ARCHITECTURES", tiny.ARCHITECTURES | _MORE_ARCHITECTURES)
    model = tiny.make_model(model_type, **changes)
    with torch.no_grad():  # logits large enough for a wrong scale or a missing softcap to show
        model.get_output_embeddings().weight.mul_(20)
        if (bias := getattr(model.get_output_embeddings(), "bias", None)) is not None:
            bias.normal_()
    return model


def _inputs(length: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(tiny.VOCAB_SIZE, (2, length), generator=torch.Generator().manual_seed(5))
    return ids, torch.arange(length).repeat(2, 1)


@pytest.mark.parametrize("model_type", [*tiny.ARCHITECTURES, *_MORE_ARCHITECTURES])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hidden_states_through_the_head_are_the_models_own_logits(model_type, dtype, monkeypatch, capsys):
    model = _make(model_type, monkeypatch).to(dtype)
    causal = CausalModel(model, tiny.VOCAB_SIZE - 1)
    ids, positions = _inputs()
    with torch.no_grad():
        logits = causal.head.logits_float32(causal.hidden(ids, positions).flatten(0, 1))
        expected = model(input_ids=ids).logits.flatten(0, 1)[:, :-1].float()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2 * float(expected.abs().max())
    torch.testing.assert_close(logits, expected, rtol=0, atol=tolerance)
    assert causal.head.weight_VD is model.get_output_embeddings().weight
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("model_type", "scale", "softcap", "has_bias"),
    [
        ("gemma2", 1.0, 2.0, False),
        ("gemma3_text", 1.0, 1.5, False),
        ("recurrent_gemma", 1.0, 2.5, False),
        ("cohere", 0.25, None, False),
        ("granite", 1 / 8, None, False),
        ("phi", 1.0, None, True),
    ],
)
def test_the_form_of_the_head_is_found(model_type, scale, softcap, has_bias, monkeypatch):
    head = CausalModel(_make(model_type, monkeypatch), tiny.VOCAB_SIZE).head
    assert (head.scale, head.softcap, head.bias_V is not None) == (scale, softcap, has_bias)


@pytest.mark.parametrize("model_type", tiny.ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_isolation_is_found_by_changing_the_document_before(model_type, dtype):
    causal = CausalModel(tiny.make_model(model_type).to(dtype), tiny.VOCAB_SIZE)
    assert causal.isolates_documents() is (model_type != "opt")


def test_a_model_without_positions_does_not_isolate(monkeypatch):
    causal = CausalModel(_make("bloom", monkeypatch), tiny.VOCAB_SIZE)
    assert not causal.isolates_documents()
    assert causal.max_positions is None
    causal.check_length(10**6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_softcap_that_rounding_would_hide_is_not_lost(dtype, monkeypatch):
    """Its key unknown, a cap moves logits by less than half precision rounds them; the form is refused all the same."""
    model = _make("gemma2", monkeypatch).to(dtype)
    ids, _ = _inputs()
    model.config.final_logit_softcapping = None
    with torch.no_grad():
        largest = float(model(input_ids=ids).logits.abs().max())
    model.config.final_logit_softcapping = 6 * largest  # x - x^3 / (3 c^2): about one part in a hundred at the largest
    assert CausalModel(model, tiny.VOCAB_SIZE).head.softcap == 6 * largest
    monkeypatch.setattr(causal, "_SOFTCAP_KEYS", ("output_logit_soft_cap",))
    assert CausalModel(model, tiny.VOCAB_SIZE).head.weight_VD is None


class _OwnProduct(LlamaForCausalLM):
    """It never calls its output module, so its logits come rounded."""

    def forward(self, input_ids, **keywords):
        output = self.model(input_ids=input_ids, **keywords)
        return type("Output", (), {"logits": torch.nn.functional.linear(output.last_hidden_state, self.lm_head.weight)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_model_that_makes_its_logits_past_the_output_module_keeps_its_head(dtype):
    model = _OwnProduct(tiny.make_model().config).eval().to(dtype)
    assert CausalModel(model, tiny.VOCAB_SIZE).head.weight_VD is model.lm_head.weight


def test_probing_leaves_no_hook_behind():
    model = tiny.make_model()
    CausalModel(model, tiny.VOCAB_SIZE)
    assert not model.lm_head._forward_hooks


class _CurvedLlama(LlamaForCausalLM):
    """Its logits are no scaled and capped product of one matrix."""

    def forward(self, *arguments, **keywords):
        output = super().forward(*arguments, **keywords)
        output.logits = output.logits + output.logits**2
        return output


def test_an_output_of_another_form_falls_back_to_whole_logits_and_says_so(capsys):
    model = _CurvedLlama(tiny.make_model().config).eval()
    causal = CausalModel(model, tiny.VOCAB_SIZE - 3)
    assert "llama models is not scale, bias and softcap" in capsys.readouterr().err
    assert causal.head.weight_VD is None
    ids, positions = _inputs()
    with torch.no_grad():
        hidden = causal.hidden(ids, positions)
        expected = model(input_ids=ids).logits
    assert torch.equal(causal.head.logits_float32(hidden[0]), expected[0, :, :-3])
    assert causal.isolates_documents()


def test_the_head_follows_the_live_weights():
    model = tiny.make_model()
    causal = CausalModel(model, tiny.VOCAB_SIZE)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert not causal.head.logits_float32(torch.ones(1, 32)).any()
    model.lm_head.weight = torch.nn.Parameter(torch.ones(tiny.VOCAB_SIZE, 32))
    assert causal.head.weight_VD is model.lm_head.weight


def test_probing_leaves_the_mode_and_the_random_numbers_alone():
    model = tiny.make_model("gpt2").train()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    CausalModel(model, tiny.VOCAB_SIZE).isolates_documents()
    assert model.training
    assert torch.equal(torch.rand(1), expected)


def test_sequences_longer_than_the_model_are_refused():
    causal = CausalModel(tiny.make_model(), tiny.VOCAB_SIZE)
    causal.check_length(128)
    ids = torch.zeros(1, 129, dtype=torch.int64)
    with pytest.raises(ConfigError, match=r"129 positions.* at most 128\. Set data\.sequence_length to 128"):
        causal.hidden(ids, ids)


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_fewer_rows_than_ids_are_refused(model_type):
    with pytest.raises(ConfigError, match=r"ids up to 300 and the model's input matrix only 300 rows"):
        CausalModel(tiny.make_model(model_type), tiny.VOCAB_SIZE + 1)


@pytest.mark.parametrize(
    ("dtype", "section", "message"),
    [
        (torch.float16, "teacher", r"^teacher\.dtype: .*float16 overflows.*teacher\.dtype to float32, or to bfloat16"),
        (torch.bfloat16, "teacher", r"^teacher\.dtype: .*bfloat16 overflows.*teacher\.dtype to float32, and"),
        (torch.float32, "teacher", r"^teacher\.model: .*its weights are damaged"),
        (torch.float32, "student", r"^student\.model: .*its weights are damaged"),
    ],
)
def test_a_model_that_overflows_is_refused_at_once(dtype, section, message):
    model = tiny.make_model().to(dtype)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("inf"))
    with pytest.raises(ConfigError, match=message):
        CausalModel(model, tiny.VOCAB_SIZE, section)


@pytest.mark.parametrize("section", ["teacher", "student"])
def test_a_card_too_full_for_one_pass_is_told(section, monkeypatch):
    model = tiny.make_model()
    causal_model = CausalModel(model, tiny.VOCAB_SIZE, section)

    def scarce(*arguments, **keywords):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.model, "forward", scarce)
    monkeypatch.setattr(CausalModel, "hidden", scarce)
    with pytest.raises(MachineError, match=rf"^{section}: the card's memory.*nvidia-smi.*{section}\.device to cpu"):
        CausalModel(model, tiny.VOCAB_SIZE, section)
    with pytest.raises(MachineError, match=rf"^{section}: the card's memory"):
        causal_model.isolates_documents()
