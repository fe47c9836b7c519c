"""Every lasting byte goes through pipeline/files.py, nothing read can execute, and stdout stays free."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.source_tree import Module, dotted, modules

DOOR = "pipeline/files.py"
WRITING_METHODS = {
    "write_text", "write_bytes", "touch", "mkdir", "makedirs", "rename", "renames", "unlink", "rmdir", "rmtree",
    "symlink_to", "hardlink_to", "save_file", "save_model", "save_pretrained", "tofile", "savez", "savez_compressed",
    "write_table", "to_parquet", "to_csv", "copyfile", "copytree", "copy2",
}  # fmt: skip
WRITING_CALLS = {
    "os.replace", "os.remove", "os.open", "os.write", "os.truncate", "np.save", "numpy.save", "torch.save",
    "shutil.move", "shutil.copy", "json.dump", "save_file", "SummaryWriter",
}  # fmt: skip
# These write into the folder that files.publish_folder hands out; who calls them is checked below.
WRITES_INTO_A_GIVEN_FOLDER = {("pipeline/data/tokenizer.py", "save"), ("pipeline/models/loading.py", "save_model")}
WRITES_NOTHING_THAT_LASTS = {
    ("pipeline/benches/peak.py", "measure"),  # sets the kernel's account of this process back
    # TensorBoard's event files, in its own format by its own writer: a view of the logs that nothing here reads back.
    ("pipeline/distill/keeping/tensorboard_log.py", "_open_writer"),
}
UNSAFE_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "tempfile", "sqlite3", "dbm"}
UNSAFE_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "torch.load", "torch.jit.load", "yaml.unsafe_load",
    "yaml.full_load",
}  # fmt: skip


def writes(module: Module) -> Iterator[ast.Call]:
    """Calls that put something on disk without the door."""
    for name, call in module.calls():
        method = name.rpartition(".")[2]
        opens = name == "open" or (name.endswith(".open") and name != "os.open")
        if name in WRITING_CALLS or (method in WRITING_METHODS and "." in name) or (opens and _mode_writes(name, call)):
            yield call


def _mode_writes(name: str, call: ast.Call) -> bool:
    modes = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    modes += call.args[1:2] if name == "open" else call.args[:1]
    constants = [mode.value for mode in modes if isinstance(mode, ast.Constant)]
    # `open` of a path with a mode that is no constant cannot be judged, so it counts as writing.
    unknown = name == "open" and len(constants) < len(modes)
    return unknown or any(isinstance(text, str) and len(text) <= 3 and set(text) & set("wax+") for text in constants)


def filled_by_publish(module: Module) -> list[tuple[int, int]]:
    """Line ranges of the functions that are handed to files.publish_folder."""
    names, ranges = set(), []
    for name, call in module.calls():
        if name.endswith("publish_folder"):
            names |= {argument.id for argument in call.args if isinstance(argument, ast.Name)}
            ranges += [_lines(argument) for argument in call.args if isinstance(argument, ast.Lambda)]
    return ranges + [_lines(function) for function in module.functions() if function.name in names]


def _lines(node: ast.expr | ast.stmt) -> tuple[int, int]:
    return node.lineno, node.end_lineno or node.lineno


def outside_the_door(module: Module) -> list[str]:
    """Writing calls of a module that neither are the door nor go through it."""
    allowed = filled_by_publish(module)
    allowed += [_lines(f) for f in module.functions() if (module.path, f.name) in WRITES_NOTHING_THAT_LASTS]
    allowed += [_lines(f) for f in module.functions() if (module.path, f.name) in WRITES_INTO_A_GIVEN_FOLDER]
    return [
        f"{module.path}:{call.lineno}: {ast.unparse(call)}"
        for call in writes(module)
        if not any(first <= call.lineno <= last for first, last in allowed)
    ]


def test_nothing_writes_but_the_door() -> None:
    found = [line for module in modules() if module.path != DOOR for line in outside_the_door(module)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "statement",
    [
        "open(path, 'w')", "open(path, mode='ab')", "open(path, mode)", "path.open('x')", "path.write_text('a')",
        "Path(name).write_bytes(b'')", "np.save(path, a)", "torch.save(a, path)", "save_file(a, path)",
        "safetensors.torch.save_file(a, path)", "os.replace(a, b)", "a.rename(b)", "model.save_pretrained(path)",
        "folder.mkdir()", "os.open(path, flags)", "json.dump(a, file)", "SummaryWriter(folder)",
    ],
)  # fmt: skip
def test_the_check_bites(statement: str) -> None:
    assert outside_the_door(Module("pipeline/x.py", ast.parse(statement), 1))


@pytest.mark.parametrize(
    "statement",
    [
        "open(path, 'rb')", "open(path)", "path.open()", "TeacherCache.open(path, *roots)", "text.replace('a', 'b')",
        "files.write_file(path, b'')", "json.dumps(a)", "files.publish_folder(p, lambda s: m.save_pretrained(s))",
        "def fill(s):\n    m.save_pretrained(s)\nfiles.publish_folder(p, fill)",
    ],
)  # fmt: skip
def test_the_check_lets_readers_pass(statement: str) -> None:
    assert not outside_the_door(Module("pipeline/x.py", ast.parse(statement), 1))


def test_models_and_tokenizers_are_saved_only_into_a_published_folder() -> None:
    loose = [
        f"{module.path}:{call.lineno}"
        for module in modules()
        for name, call in module.calls()
        if name.endswith(("tokenizer.save", "tokenizer.save_beside", "save_model"))
        and not any(first <= call.lineno <= last for first, last in filled_by_publish(module))
    ]
    assert not loose


# ------------------------------------------------------------------ nothing that executes


def test_no_format_that_can_execute() -> None:
    found = []
    for module in modules():
        imports = [(name, line) for name, line in module.imports() if _root(name) in UNSAFE_MODULES]
        found += [f"{module.path}:{line}: imports {name}" for name, line in imports]
        for name, call in module.calls():
            if name in UNSAFE_CALLS or any(_switches_on(keyword) for keyword in call.keywords):
                found.append(f"{module.path}:{call.lineno}: {ast.unparse(call)}")
    assert not found, "\n".join(found)


def _root(name: str) -> str:
    return name.partition(".")[0]


def _switches_on(keyword: ast.keyword) -> bool:
    is_true = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
    return is_true and keyword.arg in ("allow_pickle", "trust_remote_code", "shell")


def test_models_are_only_loaded_from_safetensors() -> None:
    loads = [
        (module.path, call)
        for module in modules()
        for name, call in module.calls()
        if "Model" in name and name.endswith(".from_pretrained")
    ]
    assert loads
    for path, call in loads:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("use_safetensors") == "True", f"{path}:{call.lineno}"


# ------------------------------------------------------------------ stdout


PROCESSES_THAT_ANSWER = ("pipeline/benches/peak.py",)  # started by the library itself, which reads what they say


def test_the_library_never_prints_to_stdout() -> None:
    found = []
    for module in modules():
        for name, call in module.calls():
            to_stderr = any(k.arg == "file" and dotted(k.value) == "sys.stderr" for k in call.keywords)
            answers = module.path in PROCESSES_THAT_ANSWER and name.startswith("sys.stdout")
            if (name == "print" and not to_stderr) or (name.startswith("sys.stdout") and not answers):
                found.append(f"{module.path}:{call.lineno}")
            if name == "input" or name.startswith("sys.stdin"):
                found.append(f"{module.path}:{call.lineno}: stdin is never read")
            if name == "Console" and not any(k.arg in ("stderr", "file") for k in call.keywords):
                found.append(f"{module.path}:{call.lineno}: a rich Console on stdout")
    assert not found, "\n".join(found)


# ------------------------------------------------------------------ nobody is asked


ASKING_CALLS = {"input", "getpass", "getpass.getpass", "click.prompt", "click.confirm", "click.pause", "click.getchar"}


def asks(module: Module) -> list[int]:
    """Lines that would wait for somebody: a prompt in a batch session waits until the session ends."""
    lines = [
        call.lineno for name, call in module.calls() if name in ASKING_CALLS or name.endswith("confirmation_option")
    ]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and dotted(node.func) in ("click.option", "click.argument"):
            lines += [word.value.lineno for word in node.keywords if word.arg in ("prompt", "confirmation_prompt")]
        elif (isinstance(node, ast.Attribute) and node.attr == "stdin") or (
            isinstance(node, ast.alias) and node.name == "stdin"
        ):
            lines.append(node.lineno)
    return lines


def test_nobody_is_asked_and_stdin_is_never_read() -> None:
    waiting = [f"{module.path}:{line}" for module in modules() for line in asks(module)]
    assert not waiting


@pytest.mark.parametrize(
    "line",
    [
        "input('go on? ')",
        "sys.stdin.readline()",
        "from sys import stdin",
        "click.confirm('sure?')",
        "click.option('--name', prompt=True)",
        "click.confirmation_option()",
    ],
)
def test_a_line_that_waits_is_noticed(line: str) -> None:
    assert asks(Module("stages/x.py", ast.parse(line), 1)) == [1]
