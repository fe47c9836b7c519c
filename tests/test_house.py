"""How the house stands: imports go downward, heavy dependencies have few doors, names and sizes stay readable."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

from tests.source_tree import FLOORS, ROOT, modules, room_of

DOORS: dict[str, tuple[str, ...]] = {
    "zarr": ("pipeline/cache/shard.py",),
    "numcodecs": ("pipeline/cache/shard.py",),
    "google_crc32c": ("pipeline/cache/shard.py",),
    "click": ("stages/cli.py", "stages/cli_options.py", "stages/cli_bench.py"),
    "datasets": ("pipeline/data/tables.py",),
    "pyarrow": ("pipeline/data/tables.py",),
    "transformers": ("pipeline/data/tokenizer.py", "pipeline/models/", "pipeline/benches/trainer.py"),
    "tokenizers": ("pipeline/data/tokenizer.py", "pipeline/data/bpe.py", "pipeline/data/byte_lengths.py"),
    "huggingface_hub": ("pipeline/data/tables.py", "pipeline/models/source.py"),
    "matplotlib": ("pipeline/evaluation/canvas.py",),
    "rich": ("pipeline/evaluation/", "pipeline/pricing/", "pipeline/benches/", "stages/"),
    "safetensors": ("pipeline/distill/keeping/checkpoint.py", "pipeline/models/"),
    "torch": (
        "pipeline/models/",
        "pipeline/distill/",
        "pipeline/evaluation/",
        "pipeline/pricing/",
        "pipeline/doctor/",
        "pipeline/benches/",
    ),
    "yaml": ("pipeline/plain_yaml.py", "pipeline/config.py"),
    "xxhash": ("pipeline/files.py",),
}
TOP_LEVEL = {
    "README.md", "CHANGELOG.md", "LICENSE", "Makefile", ".ci", ".gitignore", "pyproject.toml", "constraints.txt",
    "constraints-oldest.txt", "pipeline", "stages", "configs", "tests", "artifacts",
}  # fmt: skip
RUNS_STAGES = (
    "stages/__main__.py", "stages/cli.py", "stages/cli_bench.py", "stages/demo.py", "stages/bench.py",
    "stages/prepare_bench.py", "stages/bench_quality.py", "stages/quality_trainings.py", "stages/quality_workers.py",
)  # fmt: skip
GIVEN_BY_TORCH = ("forward", "backward")  # of an autograd.Function, whose class says what it is
MAX_FILE_LINES = 320
MAX_FUNCTION_LINES = 60


def own_imports(path_prefix: str) -> list[tuple[str, str, int]]:
    """(file, imported module of this project, line) for every file that begins so."""
    return [
        (module.path, name, line)
        for module in modules()
        if module.path.startswith(path_prefix)
        for name, line in module.imports()
        if name.split(".")[0] in ("pipeline", "stages")
    ]


# ------------------------------------------------------------------ floors

DISTILL_FLOORS = (
    "settings", "ranks", "loss", "losses", "keeping", "optimization", "weighting", "batching", "step_result", "guards",
    "validation", "stopwatch", "learner", "checkpoint_room", "journal", "saves",
    "training_workers",
)  # fmt: skip


def test_imports_go_downward_only() -> None:
    upward = [
        f"{module.path}:{line}: {module.room} imports {name}"
        for module in modules()
        for name, line in module.imports()
        if name.split(".")[0] in ("pipeline", "stages") and FLOORS.index(room_of(name)) > FLOORS.index(module.room)
    ]
    assert not upward, "\n".join(upward)


def test_rooms_and_files_of_distill_know_only_those_before_them() -> None:
    floor = {name: number for number, name in enumerate(DISTILL_FLOORS)}
    own = {path.name.removesuffix(".py") for path in (ROOT / "pipeline" / "distill").iterdir()}
    assert {name for name in own if not name.startswith("__")} == set(floor)
    upward = [
        f"{path}:{line}: imports {name}"
        for path, name, line in own_imports("pipeline/distill/")
        if name.startswith("pipeline.distill.") and path != "pipeline/distill/__init__.py"
        if floor[name.split(".")[2]] > floor[path.split("/")[2].removesuffix(".py")]
    ]
    assert not upward, "\n".join(upward)


def test_the_cache_knows_of_the_data_only_what_a_sequence_is() -> None:
    known = {name for _, name, _ in own_imports("pipeline/cache/") if room_of(name) == "data"}
    assert known <= {"pipeline.data.sequences"}


def test_no_stage_imports_another_except_those_that_run_them() -> None:
    shared = ("stages.config", "stages.cli_options")
    crossing = [
        f"{path}:{line}: imports {name}"
        for path, name, line in own_imports("stages/")
        if name.startswith("stages.") and name not in shared and path not in RUNS_STAGES
    ]
    assert not crossing, "\n".join(crossing)


def test_the_command_line_imports_stages_only_when_a_command_runs() -> None:
    command_line = [module for module in modules() if module.path.startswith("stages/cli")]
    assert len(command_line) == 3
    for module in command_line:
        at_import = [node for node in module.tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in at_import}
        assert not {name for name in names if name and name.startswith("stages") and "cli_" not in name}


@pytest.mark.parametrize("package", sorted(DOORS))
def test_a_heavy_dependency_has_few_doors(package: str) -> None:
    users = {module.path for module in modules() for name, _ in module.imports() if name.split(".")[0] == package}
    elsewhere = {path for path in users if not path.startswith(DOORS[package])}
    assert users, f"nothing imports {package} any more: take it out of pyproject.toml and of this table"
    assert not elsewhere, f"{package} belongs to {', '.join(DOORS[package])}, found in {', '.join(sorted(elsewhere))}"


def output_of(code: str) -> str:
    """What Python code prints in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_the_light_parts_load_nothing_heavy() -> None:
    settings = [module.path for module in modules() if module.path.endswith("/settings.py")]
    assert len(settings) == 5
    names = [path.removesuffix(".py").replace("/", ".") for path in settings]
    rooms = [f"pipeline.{room}" for room in FLOORS if room not in ("ground", "stages")]
    light = [*names, *rooms, "stages.config", "stages.cli"]
    heavy = ["torch", "transformers", "tokenizers", "datasets", "pyarrow", "zarr", "matplotlib", "numpy"]
    code = f"import sys, {', '.join(light)}; print(*(name for name in {heavy!r} if name in sys.modules))"
    assert not output_of(code).split()


def test_reading_a_cache_does_not_load_torch() -> None:
    code = "import sys; from pipeline.cache import TeacherCache, Records, Plan; print('torch' in sys.modules)"
    assert output_of(code) == "False\n"


# ------------------------------------------------------------------ sizes and words


def test_files_and_functions_can_be_read_at_one_sitting() -> None:
    long = [f"{module.path}: {module.num_lines} lines" for module in modules() if module.num_lines > MAX_FILE_LINES]
    for module in modules():
        for function in module.functions():
            num_lines = (function.end_lineno or 0) - function.lineno + 1
            if num_lines > MAX_FUNCTION_LINES:
                long.append(f"{module.path}:{function.lineno}: {function.name} has {num_lines} lines")
    assert not long, "\n".join(long)


def test_everything_public_says_what_it_is() -> None:
    silent = [f"{module.path}: the module" for module in modules() if not ast.get_docstring(module.tree)]
    for module in modules():
        public = [node for node in _public(module.tree) if node.name not in GIVEN_BY_TORCH]
        silent += [f"{module.path}:{node.lineno}: {node.name}" for node in public if not ast.get_docstring(node)]
    assert not silent, "\n".join(silent)


def _public(scope: ast.Module | ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    found: list[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef] = []
    for node in scope.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            found.append(node)
            if isinstance(node, ast.ClassDef):
                found += _public(node)
    return found


def test_no_room_for_leftovers() -> None:
    for module in modules():
        stem = module.path.rpartition("/")[2].removesuffix(".py")
        assert stem not in ("utils", "util", "common", "helpers", "helper", "misc", "manager"), module.path


def test_every_tests_folder_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("test_*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)


# ------------------------------------------------------------------ the repository


def _tracked() -> list[str]:
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        found = subprocess.run(listing, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for path in found.split("\0") if path and (ROOT / path).is_file()]


def test_the_top_level_is_the_known_set() -> None:
    assert {path.split("/")[0] for path in _tracked()} <= TOP_LEVEL


def test_no_path_of_one_machine_is_named() -> None:
    machine = re.compile(r"(?<![\w.*:/-])/(?:home|root|Users|work|mnt|kaggle|content)(?:/|\b)")
    named = []
    for path in _tracked():
        if path.endswith((".py", ".yaml", ".toml", ".txt", ".md", ".css", "Makefile", "run")):
            for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1):
                if machine.search(line):
                    named.append(f"{path}:{number}: {line.strip()}")
    assert not named, "\n".join(named)


def test_nothing_large_is_tracked() -> None:
    large = [path for path in _tracked() if (ROOT / path).stat().st_size > 2**20]
    assert not large
