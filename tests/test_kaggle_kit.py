"""The kit for notebooks: its files are what the host expects, and its wheels leave the host's image as it is."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import shlex
import signal
import subprocess
import tomllib
import zipfile
from pathlib import Path

import pytest

from pipeline.doctor.libraries import LEAST_VERSIONS
from stages.config import load_run_config
from tests.kaggle_kit import KIT, notebook, notebook_code, wheelhouse
from tests.source_tree import ROOT
from tests.typed_commands import commands, is_key, wrong_with

PAGE = (KIT / "README.md").read_text(encoding="utf-8")
# Where packages come from is a user's own affair; but for the one build that older cards want.
ANOTHER_INDEX = re.compile(
    r"(?:index-url|--channel|\s-[ic])[\s=]+(?!https://download\.pytorch\.org/whl/cu126)https?:|/simple\b"
)
METADATA = {
    "id": r"INSERT_USERNAME_HERE/[a-z0-9-]{5,50}",
    "title": r".{5,50}",
    "code_file": r"[\w-]+\.ipynb",
    "language": r"python",
    "kernel_type": r"notebook",
    "is_private": r"true",
    "enable_gpu": r"true",
    "enable_internet": r"true|false",
    "machine_shape": r"NvidiaTeslaT4",
}
SOURCES = ("dataset_sources", "competition_sources", "kernel_sources", "model_sources")


def write_wheel(folder: Path, name: str, version: str, *needs: str, tag: str = "py3-none-any") -> None:
    """A wheel with nothing but its metadata in it."""
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        "WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as archive:
        for file, text in files.items():
            archive.writestr(f"{info}/{file}", text)


# ------------------------------------------------------------------ what is pushed


def test_the_notebook_is_one() -> None:
    """As nbformat 4.5 has it: every cell with an id of its own, code cells never run."""
    book = notebook()
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert set(book) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in book["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in book["cells"]:
        own = {"outputs", "execution_count"} if cell["cell_type"] == "code" else set()
        assert set(cell) == {"cell_type", "id", "metadata", "source"} | own
        assert re.fullmatch(r"[\w-]{1,64}", cell["id"])
        assert all(isinstance(line, str) for line in cell["source"])
        assert (cell.get("outputs", []), cell.get("execution_count")) == ([], None)


def test_the_notebook_has_under_twenty_lines_of_plain_python() -> None:
    lines = [line for line in notebook_code().splitlines() if line.strip() and not line.strip().startswith("#")]
    assert 0 < len(lines) < 20
    tree = ast.parse(notebook_code())
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not called & {"input", "eval", "exec", "os.system"}
    assert "stdin=subprocess.DEVNULL" in notebook_code()
    assert "--no-index" in notebook_code()


class Session:
    """The notebook's code, run where no command does anything: each ends with the exit code that is given for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.ran: dict[str, list[str]] = {}
        self.interrupted_in = ""
        self._codes: dict[str, int] = {}
        (folder / "working").mkdir()
        monkeypatch.chdir(folder / "working")
        monkeypatch.setattr(subprocess, "call", self._call)

    def run(self, **codes: int) -> list[str]:
        """Run it; what was run in it, in order."""
        self.ran, self._codes = {}, {name.replace("_", "-"): code for name, code in codes.items()}
        before = signal.getsignal(signal.SIGINT)
        try:
            exec(compile(notebook_code(), "sad-pipeline.ipynb", "exec"), {})
        finally:
            signal.signal(signal.SIGINT, before)
        return list(self.ran)

    def _call(self, command: list[str], stdin: int) -> int:
        assert stdin == subprocess.DEVNULL
        name, *options = command[3:]
        self.ran[name] = options
        if name == self.interrupted_in:
            signal.raise_signal(signal.SIGINT)
        return self._codes.get(name, 0)


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Session:
    """The notebook in a session with nothing attached."""
    return Session(monkeypatch, tmp_path)


def test_what_the_notebook_runs_can_be_typed(book: Session) -> None:
    """Its stages and their options, as one would type them."""
    assert book.run() == ["install", "doctor", "cache-teacher", "train-student", "eval", "report"]
    settings = ["-c", "kaggle-t4x2", "--run-dir=run", "--set=cache.roots=[../input]", "--set=train.roots=[../input]"]
    limits = ["--time-budget=11", "--max-output-gb=19", "--set=session.output_folders=[.]", "--paused-exit-code=75"]
    more = {"doctor": settings, "cache-teacher": settings + limits, "train-student": settings + limits}
    assert {name: book.ran[name] for name in list(book.ran)[1:]} == more | {"eval": settings, "report": ["run"]}
    for name in list(book.ran)[1:]:
        assert wrong_with(["sad-pipeline", name, *book.ran[name]]) is None, name


def test_of_several_configs_the_first_by_its_path_is_taken_and_told(
    book: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In whatever order the file system lists them."""
    found = [Path("../input", name, "my.yaml") for name in ("b", "a", "c")]
    monkeypatch.setattr(Path, "rglob", lambda _, pattern: iter(found if pattern == "my.yaml" else ()))
    book.run()
    assert book.ran["cache-teacher"][:2] == book.ran["doctor"][:2] == ["-c", "../input/a/my.yaml"]
    assert capsys.readouterr().out == "The config is ../input/a/my.yaml\n"


def test_the_limits_of_the_cell_are_on_the_page(book: Session) -> None:
    book.run()
    limits = [option for option in book.ran["cache-teacher"] if option.startswith(("--time-budget", "--max-output-gb"))]
    assert len(limits) == 2
    assert all(f"`{limit}`" in PAGE for limit in limits)


@pytest.mark.parametrize("stage", ["cache-teacher", "train-student"])
def test_a_pause_ends_the_notebook_in_order(stage: str, book: Session) -> None:
    assert book.run(**{stage: 75})[-1] == stage


FAILURES = [("cache-teacher", 7), ("train-student", -9), ("eval", 4), ("report", 1)]


@pytest.mark.parametrize(("stage", "code"), [("install", 1), ("doctor", 5), *FAILURES])
def test_a_failure_with_nothing_to_keep_is_no_success_of_the_notebook(stage: str, code: int, book: Session) -> None:
    Path("run/cache").mkdir(parents=True)
    Path("run/cache/plan.json").touch()  # of a cache that is attached, as a next session copies it
    with pytest.raises(RuntimeError, match=f"nothing is sealed or saved; exit code {code}: what mends it is said"):
        book.run(**{stage: code})
    assert list(book.ran)[-1] == stage, "nothing is done after it"


@pytest.mark.parametrize("kept", ["cache/sequences.shard", "cache/shards/1.shard", "student/checkpoints/1/COMMIT.json"])
@pytest.mark.parametrize(("stage", "code"), FAILURES)
def test_a_failure_loses_nothing_of_what_lies_behind_it(
    stage: str, code: int, kept: str, book: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    """The host may keep nothing of a notebook that ends with an error."""
    Path("run", kept).parent.mkdir(parents=True)
    Path("run", kept).touch()
    assert book.run(**{stage: code})[-1] == stage, "nothing is done after it"
    said = f"FAILED, exit code {code} (below 0: killed): what failed, and what to do next, is said above"
    assert capsys.readouterr().out.splitlines()[-1] == said
    assert f"`{said.partition(' ')[0].strip(',')}" in PAGE


@pytest.mark.parametrize("stage", ["install", "doctor", "cache-teacher", "train-student", "eval"])
def test_nothing_is_begun_after_an_interrupt(stage: str, book: Session) -> None:
    """Also where it comes too late for the stage to hear, or between two of them."""
    book.interrupted_in = stage
    assert book.run()[-1] == stage


def test_the_metadata_is_what_the_host_reads() -> None:
    found = json.loads((KIT / "kernel-metadata.json").read_text(encoding="utf-8"))
    assert set(found) == {*METADATA, *SOURCES}
    for key, pattern in METADATA.items():
        assert re.fullmatch(pattern, found[key]), key
    assert found["id"].rpartition("/")[2] == found["title"].lower().replace(" ", "-"), "the host makes one of the other"
    assert (KIT / found["code_file"]).is_file()
    for key in SOURCES:
        assert all(re.fullmatch(r"INSERT_USERNAME_HERE/[a-z0-9-]{3,50}", source) for source in found[key])


# ------------------------------------------------------------------ the wheels


def test_pip_is_told_to_leave_the_image_alone() -> None:
    project, *downloads = wheelhouse().commands(Path("wheels"), ("3.12", "3.13"))
    assert project[1:4] == ["-m", "pip", "--no-input"]
    assert project[-3:] == ["--no-deps", "--wheel-dir=wheels", str(ROOT)]
    assert [word for command in downloads for word in command if "python-version" in word] == [
        "--python-version=3.12",
        "--python-version=3.13",
    ]
    for command in downloads:
        assert {"--only-binary=:all:", "--dest=wheels", f"--constraint={KIT / 'image.txt'}"} <= set(command)
        wanted = [word for word in command if "==" in word and not word.startswith("-")]
        assert {word.split("==")[0] for word in wanted} == {"zarr", "numcodecs", "google-crc32c", "xxhash"}
        tested = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        assert set(wanted) <= set(tested)


def test_the_image_and_the_wheels_are_all_that_is_needed() -> None:
    """Each requirement is the image's or among the wheels, and so is what those need."""
    script = wheelhouse()
    image = script.image_names()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting, needed = [script._name(text) for text in project["dependencies"]], set()
    while waiting:
        name = waiting.pop()
        if name in image or name in needed:
            continue
        needed.add(name)
        requires = importlib.metadata.requires(name) or []
        waiting += [script._name(text) for text in requires if "extra ==" not in text]
    assert {script._name(text) for text in script.lacking()} <= needed
    assert needed - {script._name(text) for text in script.lacking()} == {"donfig"}  # which pip finds by itself
    assert {"torch", "numpy", "pyarrow", "transformers", "datasets"} <= image


def test_the_image_is_as_new_as_the_project_asks() -> None:
    lines = (KIT / "image.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    assert {"torch", "numpy", "pyarrow"} <= set(pinned)
    for name, version in pinned.items():
        here = tuple(int(part) for part in version.removesuffix(".*").split("."))
        assert here >= tuple(int(part) for part in LEAST_VERSIONS[name].split(".")), name


def test_what_comes_along_and_is_the_images_is_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """pip resolves, from a folder of pretended wheels: the newest that fit the image, for each Python, and no numpy."""
    script, index, wheels = wheelhouse(), tmp_path / "index", tmp_path / "wheels"
    versions = dict(text.split("==") for text in script.lacking())
    write_wheel(index, "zarr", versions["zarr"], "numpy>=2", "donfig>=0.8", "numcodecs>=0.14", "typing_extensions>=4")
    for python in ("cp312", "cp313"):
        tag = f"{python}-{python}-manylinux_2_28_x86_64"
        for name in ("numcodecs", "xxhash", "google-crc32c"):
            write_wheel(index, name.replace("-", "_"), versions[name], "numpy>=1", tag=tag)
        write_wheel(index, "numpy", "2.1.3", tag=tag)
        write_wheel(index, "numpy", "2.5.0", tag=tag)
    write_wheel(index, "donfig", "0.8.1", "pyyaml")
    for name in ("pyyaml", "typing_extensions"):
        write_wheel(index, name, "6.0.3")
    write_wheel(wheels, "sad_pipeline", "0.0.9")
    offline = ("--no-index", f"--find-links={index}")

    real = script.commands
    script.commands = lambda *sizes: list(real(*sizes))[1:]  # the project's own wheel is built by another test
    names = script.fill(wheels, ("3.12", "3.13"), offline)
    kept = {"zarr": 1, "donfig": 1, "numcodecs": 2, "xxhash": 2, "google_crc32c": 2}
    assert {name: sum(wheel.startswith(f"{name}-") for wheel in names) for name in kept} == kept
    assert len(names) == sum(kept.values()), names
    assert [wheel.name for wheel in sorted(wheels.iterdir())] == names
    assert "8 wheels" in capsys.readouterr().out


# ------------------------------------------------------------------ its page


def test_every_command_of_the_page_can_be_typed() -> None:
    found = list(commands(PAGE))
    assert {words[1] for words in found} >= {"doctor", "verify", "train-student"}
    assert {shlex.join(words): wrong_with(words) for words in found if wrong_with(words)} == {}


def test_every_file_the_page_names_is_there() -> None:
    linked = [link for link in re.findall(r"\]\(([^)\s]+)\)", PAGE) if "://" not in link]
    assert {"kernel-metadata.json", "sad-pipeline.ipynb", "wheelhouse.py", "image.txt"} <= set(linked)
    assert all((KIT / link).exists() for link in linked)


def test_no_page_names_a_registry_but_the_wheels_of_older_cards() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "artifacts").glob("*.md"), *(ROOT / "configs").rglob("*.*")]
    assert KIT / "README.md" in pages
    named = {
        str(page): ANOTHER_INDEX.findall(page.read_text(encoding="utf-8")) for page in pages if page.suffix != ".pyc"
    }
    assert not {page: hosts for page, hosts in named.items() if hosts}


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/simple",
        "--index-url https://example.org",
        "--extra-index-url=https://example.org",
        "pip install -i https://example.org torch",
        "--channel https://example.org",
    ],
)
def test_a_registry_is_noticed(text: str) -> None:
    assert ANOTHER_INDEX.search(text)


def test_without_internet_all_that_the_config_takes_of_the_hub_is_downloaded() -> None:
    """Each model, and of the text no more than the subset."""
    config = load_run_config("kaggle-t4x2")
    section = PAGE.partition("## Without internet")[2].partition("\n## ")[0]
    downloads = [shlex.split(line) for line in section.splitlines() if line.startswith("hf download ")]
    models = {words[2] for words in downloads if "dataset" not in words}
    assert models == {config.teacher.model, config.student.model, config.eval.teacher}
    [text] = [words for words in downloads if "dataset" in words]
    assert text[2] == config.data.dataset
    assert text[text.index("--include") + 1] == f"{str(config.data.subset).replace('-', '/')}/*"
    for key in ("teacher.model", "student.model", "eval.teacher", "data.source", "data.path"):
        assert f"`{key}" in section
        assert is_key(key)
