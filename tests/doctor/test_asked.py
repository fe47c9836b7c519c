"""What a config names, as it is found: here, downloaded before, on the hub, or nowhere; nothing is loaded."""

from __future__ import annotations

import gzip
import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest

from pipeline.cache.settings import CacheSettings
from pipeline.data.documents import read_documents, source_fingerprint
from pipeline.data.settings import DataSettings
from pipeline.distill.settings import TrainSettings
from pipeline.doctor import asked as room
from pipeline.doctor.asked import Asked, look_at_config, look_at_student, look_at_teacher, look_at_text
from pipeline.doctor.hub import Hub
from pipeline.errors import ConfigError
from pipeline.models import source
from pipeline.models.settings import StudentSettings, TeacherSettings
from pipeline.runs import RunDirectory
from tests import tiny
from tests.data import builders
from tests.stages.toys import stamps

TRAIN = TrainSettings(steps=2)
FRESH = StudentSettings(config={"model_type": "llama", "hidden_size": 16, "num_attention_heads": 2})


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise AssertionError(f"the network was used: {arguments}")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


class Knocked(Hub):
    """A hub that is there, or is not."""

    def __init__(self, problem: str = "") -> None:
        super().__init__()
        self._asked, self.problem = True, problem


def look(run: RunDirectory, teacher: str, data: DataSettings, hub: Hub, **cache: Any) -> Asked:
    settings = (data, TeacherSettings(model=teacher), CacheSettings(**cache), FRESH, TRAIN)
    return look_at_config(*settings, run, hub)


def test_a_config_of_folders_never_asks_the_hub(llama_folder: Path, texts_folder: Path, tmp_path: Path) -> None:
    hub, before = Hub(), (stamps(llama_folder), stamps(texts_folder))
    data = DataSettings(source="text", path=str(texts_folder))
    found = look(RunDirectory(tmp_path / "run"), str(llama_folder), data, hub)
    assert "not asked" in hub.check().found
    assert found.teacher is not None
    assert found.teacher.size is not None
    parameters = sum(parameter.numel() for parameter in tiny.make_model().parameters())
    assert found.teacher.size.num_parameters == parameters
    assert found.student is not None
    assert found.student.size is not None
    assert found.student.size.vocab_size == tiny.VOCAB_SIZE
    num_bytes = sum(path.stat().st_size for path in texts_folder.iterdir())
    assert found.text is not None
    assert (found.text.problem, found.text.where) == ("", f"24 files of text, {num_bytes:,} bytes")
    assert found.cache is not None
    assert found.cache.tokens_left == num_bytes // 4
    assert (stamps(llama_folder), stamps(texts_folder)) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source_name", "more", "tokens"),
    [
        ("text", {}, None),
        ("text", {"max_tokens": 1000, "validation_fraction": 0.1}, 1100),
        ("text", {"max_documents": 3}, None),
        ("hub", {"dataset": "some/set"}, None),
        ("hub", {"dataset": "some/set", "max_tokens": 2000, "validation_fraction": 0.1}, 2200),
    ],
)
def test_how_much_text_there_is(
    source_name: Any, more: dict[str, Any], tokens: int | None, texts_folder: Path, llama_folder: Path, tmp_path: Path
) -> None:
    data = DataSettings(source=source_name, path=str(texts_folder), **more)
    found = look(RunDirectory(tmp_path), str(llama_folder), data, Knocked("it is far away")).cache
    assert found is not None
    if source_name == "text" and not more:
        tokens = sum(path.stat().st_size for path in texts_folder.iterdir()) // 4
    assert found.tokens_left == tokens


def test_the_size_of_packed_files_tells_no_tokens(llama_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n' * 1000))
    data = DataSettings(source="jsonl", path=str(tmp_path / "texts"))
    found = look(RunDirectory(tmp_path / "run"), str(llama_folder), data, Knocked("it is far away")).cache
    assert found is not None
    assert found.tokens_left is None


def test_what_is_not_there_is_told_in_the_words_of_the_stages(tmp_path: Path, llama_folder: Path) -> None:
    data = DataSettings(source="text", path=str(tmp_path / "texts"))
    found = look(RunDirectory(tmp_path), str(tmp_path / "teacher"), data, Hub(), roots=[str(tmp_path / "gone")])
    assert found.teacher is not None
    assert "no such folder; expected one with config.json" in found.teacher.found.problem
    assert found.cache is not None
    assert "no such folder; expected one with parts of this cache" in found.cache.found.problem
    assert found.text is None
    assert "no such file or folder" in look_at_text(data, Hub()).problem
    (tmp_path / "teacher").mkdir()
    empty = look_at_teacher(TeacherSettings(model=str(tmp_path / "teacher")), Hub())
    assert "expected a model folder with config.json, found nothing" in empty.found.problem
    odd = StudentSettings(config={"model_type": "llama", "vocab_size": "many"})
    assert "found 'many'" in look_at_student(odd, TRAIN, Hub(), 300).found.problem
    wrong = StudentSettings(config={"model_type": "llama", "hidden_sizes": 3})
    assert "did you mean 'hidden_size'" in look_at_student(wrong, TRAIN, Hub(), 300).found.problem


def test_a_fresh_student_has_rows_of_its_own_or_the_teachers() -> None:
    own = StudentSettings(config={**(FRESH.config or {}), "vocab_size": 290})
    for settings, rows, found in ((FRESH, 300, 300), (own, 300, 290), (own, None, 290)):
        size = look_at_student(settings, TRAIN, None, rows).size
        assert size is not None
        assert size.vocab_size == found
    assert look_at_student(FRESH, TRAIN, None, None).size is None


def test_a_hub_id_that_is_not_here_needs_the_hub(monkeypatch: pytest.MonkeyPatch, llama_folder: Path) -> None:
    monkeypatch.setattr(source.huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    teacher = TeacherSettings(model="some/teacher")
    away = look_at_teacher(teacher, Knocked("it is far away"))
    assert (away.size, away.found.problem) == (None, "is not here, and it is far away")
    assert away.found.fix.startswith("where there is a network: hf download some/teacher --local-dir DIR;")
    tagged = look_at_teacher(TeacherSettings(model="some/teacher", revision="v2"), Knocked("away"))
    assert "hf download some/teacher --revision v2 --local-dir DIR;" in tagged.found.fix
    quick = look_at_teacher(teacher, None)
    assert (quick.size, quick.found.problem) == (None, "")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: str(llama_folder / "config.json"))
    there = look_at_teacher(teacher, Knocked())
    assert (there.found.where, there.found.problem) == ("some/teacher on the hub, to be downloaded", "")
    assert there.size is not None


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, ("hf download some/set --repo-type dataset --local-dir DIR; bring DIR here, as data.dataset",)),
        (
            {"subset": "sample-10BT", "revision": "v2"},
            (
                'hf download some/set --repo-type dataset --revision v2 --include "PATTERN" --local-dir DIR,',
                "only files of the subset sample-10BT, split train",
                '"sample/10BT/*" is an example of a pattern',
                "as data.path, with data.source parquet, or jsonl",
            ),
        ),
    ],
)
def test_of_a_data_set_only_what_is_read_is_to_be_brought(more: dict[str, Any], words: tuple[str, ...]) -> None:
    away = look_at_text(DataSettings(source="hub", dataset="some/set", **more), Knocked("it is far away"))
    assert (away.where, away.problem) == ("some/set on the hub", "is not here, and it is far away")
    assert [word for word in words if word not in away.fix] == []


def test_a_text_that_was_brought_is_read_as_told(tmp_path: Path) -> None:
    """With the two keys that are named, and whatever else a config for the hub says."""
    folder = tmp_path / "sample" / "10BT"
    folder.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one", "two"]}), folder / "000.parquet")
    data = DataSettings(
        source="parquet", path=str(tmp_path), dataset="some/set", subset="sample-10BT", revision="v2", max_tokens=9
    )
    assert look_at_text(data, Knocked("it is far away")).where.startswith("1 files of parquet, ")
    assert [document.text for document in read_documents(data)] == ["one", "two"]
    assert source_fingerprint(data)["num_files"] == 1


@pytest.mark.parametrize(
    ("source_name", "where"), [("jsonl", "a.jsonl:1, like all 3 rows looked at"), ("parquet", "a.parquet")]
)
def test_a_column_that_is_not_there_is_told_before_anything_is_read(
    source_name: Any, where: str, tmp_path: Path
) -> None:
    rows = [{"body": "x", "n": number} for number in range(3)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    builders.write_lines(tmp_path / "a.jsonl", rows)
    settings = {"source": source_name, "path": str(tmp_path)}
    found = look_at_text(DataSettings(**settings), Hub())
    assert f"{where}: has no column 'text'; it has body, n. Set data.text_column" in found.problem
    assert not look_at_text(DataSettings(**settings, text_column="body"), Hub()).problem


def test_a_folder_in_place_of_a_hub_dataset_is_called_so(tmp_path: Path) -> None:
    path = builders.write_lines(tmp_path / "train.jsonl", [{"text": "x"}])
    found = look_at_text(DataSettings(source="hub", dataset=str(tmp_path)), Hub())
    assert found.where == f"1 files of the dataset in {tmp_path}, {path.stat().st_size} bytes"


def test_a_hub_id_that_was_downloaded_needs_no_hub(
    monkeypatch: pytest.MonkeyPatch, llama_folder: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        source.huggingface_hub, "try_to_load_from_cache", lambda *_, **__: f"{llama_folder}/config.json"
    )
    found = look_at_teacher(TeacherSettings(model="some/teacher"), None)
    assert found.found.where == "some/teacher, downloaded before"
    assert found.size is not None
    (tmp_path / "config.json").write_text("{}")  # the rest was broken off
    monkeypatch.setattr(source.huggingface_hub, "try_to_load_from_cache", lambda *_, **__: f"{tmp_path}/config.json")
    assert look_at_teacher(TeacherSettings(model="some/teacher"), None).size is None


def test_a_hub_that_has_it_not_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ConfigError("some/set: no such data set")

    monkeypatch.setattr(room, "resolve_revision", refuse)
    found = look_at_text(DataSettings(source="hub", dataset="some/set"), Knocked())
    assert found.problem.endswith("no such data set")
    assert "hf download some/set --repo-type dataset" in found.fix  # what the stages' own message sends people here for


# ------------------------------------------------------------------ the hub's own door


def test_the_hub_is_knocked_at_once_and_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    knocks = []

    def answer(address: tuple[str, int], timeout: float) -> socket.socket:
        knocks.append((address, timeout))
        return socket.socket()

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(socket, "create_connection", answer)
    hub = Hub()
    assert (hub.answers(), hub.answers(), hub.check().found) == (True, True, "the hub answers")
    [(address, timeout)] = knocks
    assert address[1] == 443
    assert timeout <= 5

    def silent(*_: Any, **__: Any) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", silent)
    hub = Hub()
    assert not hub.answers()
    assert (hub.check().state, "does not answer (timed out)" in hub.check().found) == ("note", True)


def test_what_cannot_be_asked_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixture above fails the test where anything is sent."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert source.hub_unreachable() == "HF_HUB_OFFLINE is set"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "proxy.example:3128"})
    assert source.hub_unreachable() is None
