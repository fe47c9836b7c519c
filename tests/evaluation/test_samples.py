"""Continuations against transformers' own cached generation path, and what a prompt is made of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import console
from pipeline.cache import TeacherCache
from pipeline.data.tokenizer import Tokenizer
from pipeline.errors import ConfigError
from pipeline.evaluation import samples
from pipeline.evaluation.samples import Beginning, continue_texts, held_out_beginnings, samples_of, written_beginnings
from pipeline.models import CausalModel
from tests import tiny
from tests.evaluation.caches import NUM_TRAIN, make_cache


@pytest.fixture(scope="module")
def model() -> CausalModel:
    tiny_model = tiny.make_model("llama", seed=5, tie_word_embeddings=False)
    tiny_model.lm_head.weight.data *= 40
    return CausalModel(tiny_model, tiny.VOCAB_SIZE - 41)  # ids above 258 have no spelling


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_folder)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> TeacherCache:
    teacher = CausalModel(tiny.make_model("llama"), tiny.VOCAB_SIZE)
    return make_cache(tmp_path_factory.mktemp("cache"), teacher)


def slow_route(model: CausalModel, prompt: tuple[int, ...], row: int, rows: int, num_tokens: int) -> list[int]:
    """One prompt alone, whole logits from transformers, the same random numbers."""
    ids, generator = list(prompt), np.random.default_rng(0)
    for _ in range(num_tokens):
        with torch.no_grad():
            logits = model.model(torch.tensor([ids]), use_cache=False).logits[0, -1, : model.num_effective]
        noise = generator.gumbel(size=(rows, model.num_effective))[row]
        ids.append(int(np.argmax(logits.numpy() / samples.TEMPERATURE + noise.astype(np.float32))))
    return ids[len(prompt) :]


def test_prompts_of_unequal_length_go_on_as_each_would_alone(model: CausalModel, tokenizer: Tokenizer) -> None:
    beginnings = [Beginning(tuple(b"import json")), Beginning(tuple(b"x")), Beginning(tuple(b"class A:\n    "))]
    found = continue_texts(model, beginnings, 12, tokenizer)
    for row, beginning in enumerate(beginnings):
        expected = slow_route(model, beginning.prompt_ids, row, 3, 12)
        cut = expected.index(256) if 256 in expected else 12
        assert found[row] == tokenizer.decode(expected[:cut])
    assert found == continue_texts(model, beginnings, 12, tokenizer)


def test_a_prompt_at_the_limit_of_the_positions_still_goes_on(model: CausalModel, tokenizer: Tokenizer) -> None:
    [text] = continue_texts(model, [Beginning(tuple(b"a" * 128))], 8, tokenizer)
    assert text


def test_more_tokens_than_the_model_has_positions(
    model: CausalModel, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_said", set())
    (text,) = continue_texts(model, [Beginning(tuple(b"import json"))], 500, tokenizer)
    assert text
    assert "samples are 127 tokens long" in capsys.readouterr().err


def test_nothing_to_write(model: CausalModel, tokenizer: Tokenizer) -> None:
    assert continue_texts(model, [], 8, tokenizer) == []
    assert continue_texts(model, [Beginning((97,))], 0, tokenizer) == [""]


def test_beginnings_are_the_longest_document_of_each_sequence(cache: TeacherCache) -> None:
    indices = np.arange(NUM_TRAIN, len(cache))
    found = held_out_beginnings(cache, indices, num_tokens=3, count=2)
    assert len(found) == 2
    for beginning, row in zip(found, (NUM_TRAIN, len(cache) - 1), strict=True):
        first = 7 + row % 5
        ids = cache.sequences.select(slice(None)).input_ids[row]
        document = ids[first:19] if 19 - first > first else ids[:first]
        cut = len(document) // 2
        assert beginning.prompt_ids == tuple(document[:cut])
        assert beginning.reference_ids == tuple(document[cut : cut + 3])


def test_padding_is_no_beginning_however_long_it_is(cache: TeacherCache) -> None:
    """Nor is a document without a scored label, such as a chat's question; a sequence without any is passed over."""
    sequences = cache.sequences.select(slice(None))
    sequences.loss_mask[0, 4:] = False  # of the first document 4 labels, of the second and of what follows none
    sequences.document_starts[0] = False
    sequences.document_starts[0, [0, 7]] = True
    sequences.loss_mask[1] = False
    found = held_out_beginnings(SimpleNamespace(sequences=sequences), np.array([0, 1]), num_tokens=3)
    assert [beginning.prompt_ids for beginning in found] == [tuple(sequences.input_ids[0, :3])]
    assert held_out_beginnings(SimpleNamespace(sequences=sequences), np.array([1]), num_tokens=3) == []


def test_more_beginnings_than_sequences_are_not_repeated(cache: TeacherCache) -> None:
    assert len(held_out_beginnings(cache, np.array([NUM_TRAIN]), num_tokens=3, count=4)) == 1


def test_written_prompts(tokenizer: Tokenizer) -> None:
    (beginning,) = written_beginnings(["def f("], tokenizer)
    assert tokenizer.decode(beginning.prompt_ids) == "def f("
    assert beginning.reference_ids is None
    with pytest.raises(ConfigError, match=r"eval\.sample_prompts"):
        written_beginnings([""], tokenizer)


def test_samples_hold_text(tokenizer: Tokenizer) -> None:
    one, two, three = written_beginnings(["ab", "cd", "x"], tokenizer)
    beginnings = [Beginning(one.prompt_ids, (*two.prompt_ids, 256, 97)), three]
    first, second = samples_of(beginnings, {"student": ["e", "f"]}, tokenizer)
    assert (first.prompt, first.reference, first.continuations) == ("ab", "cd", {"student": "e"})
    assert (second.reference, second.continuations) == (None, {"student": "f"})
