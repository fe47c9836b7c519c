"""The folder train-student leaves, loaded as anybody would."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from pipeline import console
from pipeline.cache import TeacherCache
from pipeline.console import format_bytes
from pipeline.data.documents import Document, TokenizedDocument
from pipeline.data.sequences import VALIDATION
from pipeline.data.tokenizer import Tokenizer
from pipeline.distill.keeping.export import export_model
from tests import tiny
from tests.stages.toys import (
    Toy,
    run,
    tree,
)
from tests.stages.trainings import STAGE, checkpoint, train

# ------------------------------------------------------------------ the student it leaves


def test_its_tokenizer_takes_texts_as_long_as_the_student_does(
    toy: Toy, cached: Path, trained: Path, tmp_path: Path
) -> None:
    """And not as the teacher."""

    def longest(run_dir: Path) -> int:
        tokenizer = json.loads((run_dir / "student" / "model" / "tokenizer_config.json").read_text())
        return int(tokenizer["model_max_length"])

    model = json.loads((trained / "student" / "model" / "config.json").read_text())
    assert longest(trained) == model["max_position_embeddings"]
    train(toy, cached, tmp_path / "run", "--set", "student.config.max_position_embeddings=96")
    assert longest(tmp_path / "run") == 96


@pytest.mark.slow
def test_the_exported_student_needs_nothing_of_this_project(trained: Path, tmp_path: Path) -> None:
    """Loaded in a process that cannot import this project, it gives the logits of the best weights."""
    model_folder = trained / "student" / "model"
    program = f"""
import sys
sys.modules["pipeline"] = sys.modules["stages"] = None  # importing either is an error now
import torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained({str(model_folder)!r})
tokenizer = transformers.AutoTokenizer.from_pretrained({str(model_folder)!r})
ids = tokenizer("def decode(self, s):", return_tensors="pt").input_ids
with torch.no_grad():
    torch.save(model(ids).logits, {str(tmp_path / "logits.pt")!r})
generate = transformers.pipeline("text-generation", {str(model_folder)!r})
text = generate("def", max_new_tokens=4, do_sample=False)[0]["generated_text"]
assert text.startswith("def") and len(text) > 3, text
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    model = tiny.make_model(
        vocab_size=259,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
    )
    model.load_state_dict(load_file(checkpoint(trained, 12, "best") / "weights.safetensors"), strict=True)
    ids = Tokenizer.load(model_folder).encode([Document("key", "def decode(self, s):")])[0]
    assert isinstance(ids, TokenizedDocument)
    with torch.no_grad():
        expected = model(torch.from_numpy(ids.ids[:-1].astype("int64"))[None]).logits
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt", weights_only=True), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", sorted(tiny.ARCHITECTURES))
def test_any_architecture_can_be_the_student(architecture: str, toy: Toy, cached: Path, tmp_path: Path) -> None:
    block = json.dumps({"model_type": architecture, **tiny.ARCHITECTURES[architecture]})
    options = ["--set", f"cache.roots=[{cached}]", "--set", f"student.config={block}", "--set", "train.steps=2"]
    ended = toy.run(STAGE, tmp_path / "run", *options)
    if architecture == "opt":  # it would mix the documents of this packed cache
        assert ended.code == 2
        assert "let a document see the one before it" in ended.stderr
        return
    assert ended.code == 0, ended.stderr
    folder = tmp_path / "run" / "student" / "model"
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    best = load_file(checkpoint(tmp_path / "run", 2, "best") / "weights.safetensors")
    assert best.keys() <= model.state_dict().keys()
    assert len(best) >= len(list(model.parameters()))
    for name, tensor in model.state_dict().items():
        assert name not in best or torch.equal(best[name], tensor), name
    before = Tokenizer.load(toy.teacher).fingerprint()
    plain = Tokenizer(PreTrainedTokenizerFast.from_pretrained(str(folder)), "plain").fingerprint()
    assert plain == before
    if Tokenizer.load(folder).fingerprint() != before:  # transformers has its own way with the texts of some models
        assert "AutoTokenizer does not give the teacher's ids here" in ended.stderr


def test_the_model_card_says_which_weights(trained: Path, toy: Toy) -> None:
    card = (trained / "student" / "model" / "README.md").read_text(encoding="utf-8")
    best = json.loads((checkpoint(trained, 12) / "state.json").read_text())["best"]
    assert f"| weights | {best['weights']} weights of step {best['step']} of 12: the lowest validation loss |" in card
    digest = hashlib.sha256((toy.teacher / "model.safetensors").read_bytes()).hexdigest()[:16]
    assert f"| teacher | weights of SHA-256 model.safetensors {digest}; the config calls it {toy.teacher} |" in card
    num_bytes = sum(path.stat().st_size for path in toy.texts.rglob("*") if path.is_file())
    assert f"| data | text, {len(list(toy.texts.iterdir()))} files of {format_bytes(num_bytes)}; " in card
    assert "| `learning_rate` | `0.001` |" in card


def plain_cross_entropy(folder: Path, cache_folder: Path) -> float:
    """Over the held-out labels, by transformers alone: every logit the model gives counts."""
    model = AutoModelForCausalLM.from_pretrained(str(folder)).eval()
    nats, count = 0.0, 0
    with TeacherCache.open(cache_folder) as cache, torch.no_grad():
        indices = [i for span in cache.sealed if span.split == VALIDATION for i in range(span.first, span.stop)]
        for sequence in (cache[index] for index in indices):
            ids, begins = sequence.input_ids.astype("int64"), sequence.document_starts[:-1].nonzero()[0].tolist()
            for begin, end in itertools.pairwise([*begins, len(ids) - 1]):
                logits = model(torch.from_numpy(ids[begin:end])[None]).logits[0].double()
                labels = torch.from_numpy(ids[begin + 1 : end + 1])
                each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
                scored = torch.from_numpy(sequence.loss_mask_T[begin:end].copy())
                nats, count = nats + float(each[scored].sum()), count + int(scored.sum())
    return nats / count


@pytest.mark.slow
@pytest.mark.parametrize("block", ["llama tied", "llama untied", "phi untied, with a bias"])
def test_ids_that_do_not_exist_get_no_probability(block: str, toy: Toy, cached: Path, tmp_path: Path) -> None:
    """A student with 141 rows more than the tokenizer has ids: what it gives on its own is what eval measures."""
    model_type, tie = block.split()[0], block.endswith(" tied")
    sizes = tiny.ARCHITECTURES["llama"] | {"num_key_value_heads": 4}
    config = json.dumps({"model_type": model_type, **sizes, "vocab_size": 400, "tie_word_embeddings": tie})
    run_dir, options = tmp_path / "run", ["--set", f"student.config={config}", "--set", "train.steps=3"]
    train(toy, cached, run_dir, *options)
    folder = run_dir / "student" / "model"
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 259
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    assert model(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, 259)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tie
    assert "Ids that stand for nothing" not in (folder / "README.md").read_text()

    baseline = ["--set", f"eval.baselines={{again: {folder}}}"]
    toy.ran("eval", run_dir, "--set", f"cache.roots=[{cached}]", *options, *baseline)
    rows = json.loads((run_dir / "eval" / "eval.json").read_text())["rows"]
    measured = [row["cross_entropy_nats"] for row in rows if row["folder"] == str(folder)]
    assert measured == pytest.approx([plain_cross_entropy(folder, cached)] * 2, rel=1e-5)

    # The training itself keeps its rows, and has nothing left to do.
    best = load_file(checkpoint(run_dir, 3, "best") / "weights.safetensors")
    assert {tensor.shape[0] for name, tensor in best.items() if "embed" in name or "lm_head" in name} == {400}
    before = tree(run_dir / "student")
    assert "nothing left to do" in train(toy, cached, run_dir, *options).stderr
    shutil.rmtree(folder)
    train(toy, cached, run_dir, *options)
    assert tree(run_dir / "student") == before


def test_a_model_that_cannot_be_cut_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny.make_model("llama", tie_word_embeddings=False)
    model.lm_head = torch.nn.Sequential()  # some output of its own
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(tiny.VOCAB_SIZE, 32))
    console._said.clear()
    export_model(tmp_path / "model", model, Tokenizer.load(tiny.save_tokenizer(tmp_path / "tokenizer")), "# Card\n")
    assert "llama models cannot be cut to the 259 ids" in capsys.readouterr().err
    assert "`logits[..., 259:]` to minus infinity" in (tmp_path / "model" / "README.md").read_text()


def test_an_existing_model_is_taught_further(toy: Toy, cached: Path, tmp_path: Path) -> None:
    student = tiny.save_model(tmp_path / "student", "mistral", seed=3)
    options = ["--set", "student.config=null", "--set", f"student.model={student}", "--set", "train.steps=2"]
    train(toy, cached, tmp_path / "run", *options)
    assert json.loads((tmp_path / "run" / "student" / "model" / "config.json").read_text())["model_type"] == "mistral"


def test_help_names_the_ways_on(cached: Path) -> None:
    assert "--use-sealed-only" in run(STAGE, "--help").stdout
