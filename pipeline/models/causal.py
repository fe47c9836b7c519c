"""A causal language model, split where distillation splits it: a body that gives hidden states, and a Head.

Shapes: **B** sequences, **T** positions, **D** model width, **V** effective vocabulary.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.console import warn_once
from pipeline.errors import ConfigError
from pipeline.models.attention import keep_fused_attention
from pipeline.models.head import Head, product_float32
from pipeline.models.memory import is_out_of_memory, memory_errors

_PROBE_TOKENS = 24
_LEAK_TOLERANCE = 1e-3  # of the hidden states' norm; a leak moves it by percents, rounding by nothing or 1e-6
_HEAD_TOLERANCE = 1e-4  # of the largest logit; the order of a float32 sum
_HALF_TOLERANCE = 1e-3  # hidden states scaled in half precision before the product are rounded once more
_HEAD_ROUNDINGS = 3.0  # a half-precision model rounds its logits once, and again for scale and softcap
POSITION_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""under which configs say how long a sequence may be"""
_SOFTCAP_KEYS = ("final_logit_softcapping", "output_logit_soft_cap", "logits_soft_cap")
_FACTOR_KEYS = ("logit_scale", "lm_head_multiplier", "output_multiplier")
_DIVISOR_KEYS = ("logits_scaling",)


class CausalModel:
    """A transformers model seen as `hidden` states and a `head`, over the first `num_effective` ids.

    ConfigError where its matrices are smaller than the vocabulary or its dtype overflows at once; `section` is the part
    of the config whose keys the message names.
    Which scale and softcap an architecture has is read from its config and then held against its own logits on a
    probe; an architecture that does not fit gives whole logits as its hidden states, which costs memory and is said.
    """

    def __init__(self, model: Any, num_effective: int, section: Literal["teacher", "student"] = "teacher") -> None:
        self.model = model
        self.num_effective = num_effective
        self.section = section
        self._config = model.config.get_text_config()
        _check_rows(model, "input", model.get_input_embeddings().weight.shape[0], num_effective)
        keep_fused_attention(self.device)
        self._names_positions = "position_ids" in inspect.signature(_body(model).forward).parameters
        with self._memory_errors():
            self._form = self._find_form()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return _output(self.model).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return _output(self.model).dtype

    @property
    def architecture(self) -> str:
        """As its config names it: "llama"."""
        return str(self.model.config.model_type)

    @property
    def max_positions(self) -> int | None:
        """The longest sequence the model is made for; None where its config does not say."""
        return max_positions(self.model.config)

    @property
    def head(self) -> Head:
        """The output, on the live parameters: gradients and updates of the model are the head's."""
        if self._form is None:
            return Head(None, num_effective=self.num_effective)
        return self._head_of_form(*self._form)

    def hidden(self, input_ids_BT: Tensor, position_ids_BT: Tensor) -> Tensor:
        """[B, T] -> [B, T, D], ready for `head`; positions that restart keep documents apart, where the model can.

        No attention mask is passed: causality is all that is needed, and a mask would switch the separation off.
        """
        self.check_length(input_ids_BT.shape[1])
        inputs = {"input_ids": input_ids_BT, "use_cache": False}
        if self._names_positions:
            inputs["position_ids"] = position_ids_BT
        if self._form is None:
            logits: Tensor = self.model(**inputs).logits
            return logits
        hidden: Tensor = _body(self.model)(**inputs).last_hidden_state
        return hidden

    def check_length(self, num_positions: int) -> None:
        """ConfigError where a sequence is longer than the model's positions."""
        refuse_longer(num_positions, self.model.config)

    def isolates_documents(self) -> bool:
        """Whether restarting positions keep a document from seeing the one before it; found by changing that one."""
        if not self._names_positions:
            return False
        half = self._probe_length() // 2
        ids_2T = self._probe_ids(2 * half).repeat(2, 1)
        ids_2T[1, :half] = self._probe_ids(3 * half)[2 * half :]
        positions_2T = torch.arange(half, device=self.device).repeat(2, 2)
        with self._memory_errors(), _at_rest(self.model):
            first, second = self.hidden(ids_2T, positions_2T)[:, half:].double()
        moved = float((first - second).norm() / first.norm())
        return moved <= _LEAK_TOLERANCE

    # ------------------------------------------------------------------ finding the head

    def _head_of_form(self, scale: float, softcap: float | None) -> Head:
        output = self.model.get_output_embeddings()
        bias = getattr(output, "bias", None)
        return Head(output.weight, bias, scale, softcap, self.num_effective)

    def _find_form(self) -> tuple[float, float | None] | None:
        """(scale, softcap) with which the head gives the model's own logits; None where nothing does."""
        with _at_rest(self.model):
            inputs = {"input_ids": self._probe_ids(self._probe_length())[None], "use_cache": False}
            logits_TV, tolerance = self._own_logits(inputs)
            _check_rows(self.model, "output", logits_TV.shape[1], self.num_effective)
            logits_TV = logits_TV[:, : self.num_effective]
            if not bool(logits_TV.isfinite().all()):
                raise ConfigError(overflow_message("a few random ids", self.dtype, self.section))
            try:
                hidden_TD = _body(self.model)(**inputs).last_hidden_state[0]
                for form in _stated_forms(self._config):
                    if _agree(self._head_of_form(*form).logits_float32(hidden_TD), logits_TV, tolerance):
                        return form
            except (AttributeError, TypeError, ValueError, RuntimeError) as error:
                if is_out_of_memory(error):
                    raise
                # No body, no output matrix, or one of another width: told below.
        warn_once(
            f"the output of {self.architecture} models is not scale, bias and softcap of one matrix; whole logits are "
            "used instead, which takes more memory and keeps the rounding of their dtype"
        )
        return None

    def _own_logits(self, inputs: dict[str, Any]) -> tuple[Tensor, float]:
        """The model's logits [T, V] in float32, and how closely a head of the right form gives them.

        The product of the output matrix leaves in float32, and the model bends it in its own way: rounding would hide
        a softcap that is large beside the logits. A model that does not call its output module rounds them.
        """
        output, was_called = self.model.get_output_embeddings(), False

        def unrounded(module: nn.Module, arguments: tuple[Tensor, ...], rounded: Tensor) -> Tensor:
            nonlocal was_called
            was_called = True
            product_nV = product_float32(arguments[0].flatten(0, -2), output.weight)
            if output.bias is not None:
                product_nV += output.bias
            return product_nV.view(rounded.shape)

        hook = output.register_forward_hook(unrounded) if isinstance(output, nn.Linear) else None
        try:
            logits_TV: Tensor = self.model(**inputs).logits[0]
        finally:
            if hook is not None:
                hook.remove()
        half = self.dtype != torch.float32
        if was_called and logits_TV.dtype == torch.float32:
            return logits_TV, _HALF_TOLERANCE if half else _HEAD_TOLERANCE
        return logits_TV.float(), max(_HEAD_TOLERANCE, _HEAD_ROUNDINGS * torch.finfo(self.dtype).eps)

    def _memory_errors(self) -> contextlib.AbstractContextManager[None]:
        return memory_errors(
            f"{self.section}: the card's memory holds this {self.architecture} model's weights and no pass over a few "
            "ids. End other programs that use the card (nvidia-smi lists them), choose a smaller model, or set "
            f"{self.section}.device to cpu."
        )

    def _probe_length(self) -> int:
        return min(_PROBE_TOKENS, self.max_positions or _PROBE_TOKENS)

    def _probe_ids(self, length: int) -> Tensor:
        """`length` ids from all over the vocabulary, the same every time."""
        generator = torch.Generator().manual_seed(0)
        return torch.randint(self.num_effective, (length,), generator=generator).to(self.device)


def max_positions(config: Any) -> int | None:
    """The longest sequence a model of this config is made for; None where it does not say."""
    values = (getattr(config.get_text_config(), key, None) for key in POSITION_KEYS)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def refuse_longer(num_positions: int, config: Any, fix: str = "") -> None:
    """ConfigError where a sequence is longer than a model of this config is made for; no weights are needed.

    `fix` is what to do about it where that is not, or not only, to make the sequences shorter.
    """
    limit = max_positions(config)
    if limit is not None and num_positions > limit:
        raise ConfigError(
            f"data.sequence_length: {num_positions:,} positions, and this {config.model_type} model is made for at "
            f"most {limit:,}. {fix or f'Set data.sequence_length to {limit:,} or less.'}"
        )


def overflow_message(where: str, dtype: torch.dtype, section: str) -> str:
    """What to say of a model whose logits are not finite; the key it begins with belongs to `section`."""
    found = f"the model's logits are not finite at {where}"
    if dtype == torch.float32:
        return f"{section}.model: {found}, although it runs in float32: its weights are damaged. Fetch them again."
    other = "float32, or to bfloat16 on a card that has it" if dtype == torch.float16 else "float32"
    return (
        f"{section}.dtype: {found}: {str(dtype).removeprefix('torch.')} overflows in this model. Set {section}.dtype "
        f"to {other}, and cache into a new run directory."
    )


def _stated_forms(config: Any) -> Iterator[tuple[float, float | None]]:
    """Every (scale, softcap) an architecture's config may mean, what it states first."""
    softcap = next((value for key in _SOFTCAP_KEYS if (value := getattr(config, key, None))), None)
    factors = [value for key in _FACTOR_KEYS if (value := getattr(config, key, None))]
    divisors = [value for key in _DIVISOR_KEYS if (value := getattr(config, key, None))]
    scales = [*factors, *(1 / value for value in divisors), *divisors, 1.0]
    for cap in dict.fromkeys((softcap, None)):
        for scale in dict.fromkeys(value for value in scales if isinstance(value, (int, float))):
            yield float(scale), cap


def _agree(found_TV: Tensor, expected_TV: Tensor, tolerance: float) -> bool:
    if found_TV.shape != expected_TV.shape:
        return False
    return bool((found_TV - expected_TV).abs().max() <= tolerance * expected_TV.abs().max())


def _check_rows(model: Any, what: str, num_rows: int, num_effective: int) -> None:
    if num_rows < num_effective:
        raise ConfigError(
            f"{model.name_or_path or model.config.model_type}: the tokenizer has ids up to {num_effective - 1:,} and "
            f"the model's {what} matrix only {num_rows:,} rows. Use the tokenizer this model was trained with."
        )


def _body(model: Any) -> nn.Module:
    body: nn.Module = model.base_model
    return body


def _output(model: Any) -> Tensor:
    output = model.get_output_embeddings()
    weight: Tensor = next(model.parameters()) if output is None else output.weight
    return weight


@contextlib.contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """No gradients, no dropout; the model's mode comes back."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
