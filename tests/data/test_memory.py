"""Memory of a long text, measured from outside: a user's machine has a dozen gigabytes, and texts of one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.data.bpe import train_tokenizer

SIZE_BYTES = 12_000_000
_MEASURE = """
import json, resource, sys
from pathlib import Path
from pipeline.data.documents import Document
from pipeline.data.preparation import prepare_sequences
from pipeline.data.settings import DataSettings
from pipeline.data.tokenizer import Tokenizer

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

tokenizer = Tokenizer.load(Path(sys.argv[1]))
tokenizer.encode([Document("key", "loads what is loaded late")])
before = peak()
_, report = prepare_sequences(DataSettings(source="text", path=sys.argv[2]), tokenizer, "packed")
print(json.dumps({"bytes": peak() - before, "tokens": report.num_tokens}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_a_long_text_takes_a_few_times_its_size(texts_folder: Path, tmp_path: Path) -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted(texts_folder.iterdir())]
    train_tokenizer(texts, 600, tmp_path / "tokenizer")
    whole = "\n".join(texts)
    book = tmp_path / "book.txt"
    book.write_text(whole * (SIZE_BYTES // len(whole.encode()) + 1), encoding="utf-8")
    command = [sys.executable, "-c", _MEASURE, str(tmp_path / "tokenizer"), str(book)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found["tokens"] > SIZE_BYTES / 8
    # Eleven bytes a token at the end, the text, and about 60 MB for the tokenizer's threads; it was 120 times the size.
    assert found["bytes"] < 14 * SIZE_BYTES
