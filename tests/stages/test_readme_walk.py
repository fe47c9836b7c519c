"""README's commands as they stand, on README's config, with somebody's own model and text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from tests import tiny
from tests.stages.toys import run
from tests.typed_commands import README, blocks, commands


@pytest.mark.slow
def test_readme_takes_a_foreign_model_and_text_to_a_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (config,) = (block for block in blocks(README, "yaml") if "my-teacher/" in block)
    Path("my.yaml").write_text(config, encoding="utf-8")
    tiny.save_model(Path("my-teacher"), "gpt2", n_positions=512)
    Path("my-texts").mkdir()
    for number in range(24):  # one text in twenty is held out
        lines = (f"line {i} of text {number} speaks of {i * number % 17}\n" for i in range(60))
        Path("my-texts", f"{number}.txt").write_text("".join(lines), encoding="utf-8")

    (walk,) = (block for block in blocks(README, "bash") if "cache-teacher -c my.yaml" in block)
    for words in commands(f"```bash\n{walk}```"):
        ended = run(*words[1:])
        assert ended.code == 0, ended.stderr

    done = Path("artifacts", "my-student")
    assert AutoModelForCausalLM.from_pretrained(str(done / "student" / "model")).config.hidden_size == 256
    rows = json.loads((done / "eval" / "eval.json").read_text(encoding="utf-8"))["rows"]
    student, initial = (next(row for row in rows if row["kind"] == kind) for kind in ("student", "initial"))
    assert student["cross_entropy_nats"] < initial["cross_entropy_nats"]
    assert (done / "report" / "report.html").is_file()
