"""Defects of the door to the disk, of locks and of runs."""

from __future__ import annotations

from tests.reliability.mutants.kinds import FSYNC, HASH, LOCK, ORDER, RENAME, TEMPORARY, of
from tests.reliability.mutants.suites import DOOR

_VERBS = f"{DOOR}::test_old_or_new_and_then_new_for_good"
_FROZEN = "tests/reliability/test_writers.py::test_a_writer_frozen_before_each_of_its_operations[False]"
_WHOLE = "tests/test_files.py::test_write_file_is_whole_or_absent_at_every_call"
_READ_BACK = "tests/test_files.py::test_a_disk_that_returns_other_bytes_is_noticed_before_the_rename"
_PUBLISHED = "tests/test_published_folders.py::test_publish_folder_is_old_or_new_at_every_call"
_REMOVED = "tests/test_published_folders.py::test_removed_means_whole_or_absent"
_SWEEPS = "tests/test_locks.py::test_a_temporary_survives_a_sweep_while_its_writer_lives"

FILES = of(
    "pipeline/files.py",
    ("the bytes of a file are not synced", FSYNC, _VERBS, "os.fsync(file.fileno())", "pass"),
    (
        "synced before all is handed to the system", FSYNC, _VERBS,
        "                file.flush()\n                os.fsync(file.fileno())\n",
        "                os.fsync(file.fileno())\n                file.flush()\n",
    ),
    (
        "the folder is not synced after a rename", FSYNC, _VERBS,
        "            raise\n        sync_folder(path.parent)\n    return digest",
        "            raise\n    return digest",
    ),
    (
        "the parent of a new folder is not synced", FSYNC, _VERBS,
        "        path.mkdir(exist_ok=True)\n        sync_folder(path.parent)", "        path.mkdir(exist_ok=True)",
    ),
    (
        "the folder is not synced after a file is removed", FSYNC, _VERBS,
        "        path.unlink()\n        sync_folder(path.parent)", "        path.unlink()",
    ),
    (
        "the folder is not synced before a folder is emptied", FSYNC, _VERBS,
        "            path.rename(retired)\n            sync_folder(path.parent)", "            path.rename(retired)",
    ),
    (
        "the folder is not synced after one is published", FSYNC, _VERBS,
        "            raise\n        sync_folder(path.parent)\n        shutil", "            raise\n        shutil",
    ),
    ("files of a published folder are not synced", FSYNC, _VERBS, "            _sync_path(Path(parent) / name)\n", ""),
    ("a published folder is not synced", FSYNC, _VERBS, "        _sync_path(Path(parent))", "        pass"),
    (
        "an appended file is not synced", FSYNC, _VERBS,
        "    with storage_errors(path):\n        _sync_path(path)", "    pass",
    ),
    (
        "renamed before it is synced", ORDER, _VERBS,
        "                os.fsync(file.fileno())\n                digest = digest_file(temporary)",
        ("                os.replace(temporary, path)\n                os.fsync(file.fileno())\n"
        "                digest = digest_file(path)"),
        "                os.replace(temporary, path)\n        except", "        except",
    ),
    (
        "read back after the rename", ORDER, _READ_BACK,
        "                digest = digest_file(temporary)",
        "                os.replace(temporary, path)\n                digest = digest_file(path)",
        "                os.replace(temporary, path)\n        except", "        except",
    ),
    (
        "named before its files are synced", ORDER, _VERBS,
        "                _make_durable(staging)\n                _put_in_place(staging, path)",
        "                _put_in_place(staging, path)\n                _make_durable(path)",
    ),
    (
        "copied into place instead of renamed", RENAME, _VERBS,
        "os.replace(temporary, path)", "path.write_bytes(temporary.read_bytes()), temporary.unlink()",
    ),
    (
        "written in place under its own name", RENAME, _VERBS,
        "temporary = _temporary_name(path)", "temporary = path", '"x+b"', '"w+b"',
    ),
    (
        "the old folder is removed before the new one is named", RENAME, _PUBLISHED,
        "    elif not _exchange(staging, path):",
        ("    elif True:\n        shutil.rmtree(path)\n        staging.rename(path)\n"
        "    elif not _exchange(staging, path):"),
    ),
    (
        "the old folder does not come back where the new one cannot be named", RENAME, _PUBLISHED,
        "            retired.rename(path)\n            raise", "            raise",
    ),
    (
        "a first folder is copied into place instead of renamed", RENAME, _VERBS,
        "    if not path.exists():\n        staging.rename(path)",
        ("    if not path.exists():\n        path.mkdir()\n        for child in sorted(staging.rglob('*')):\n"
         "            place = path / child.relative_to(staging)\n"
         "            place.mkdir() if child.is_dir() else place.write_bytes(child.read_bytes())"),
    ),
    (
        "a folder is removed under its own name", RENAME, _REMOVED,
        "            path.rename(retired)\n            sync_folder(path.parent)\n            shutil.rmtree(retired)",
        "            shutil.rmtree(path)",
    ),
    (
        "what is read back is not compared", HASH, _READ_BACK,
        "if written not in (None, digest):", "if False:",
    ),
    (
        "nothing is read back: the digest is of the bytes in memory", HASH, _READ_BACK,
        "digest = digest_file(temporary)",
        "digest = digest_bytes(content) if isinstance(content, bytes) else digest_file(temporary)",
    ),
    ("a file that is written is not locked", LOCK, _SWEEPS, "                fcntl.flock(file, fcntl.LOCK_EX)\n", ""),
    (
        "a folder that is filled is not locked", LOCK, _SWEEPS,
        "            fcntl.flock(descriptor, fcntl.LOCK_EX)\n        if staging", "        if staging",
    ),
    (
        "a sweep asks for no lock", LOCK, _SWEEPS,
        "                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n                shutil",
        "                shutil",
    ),
    (
        "a lock is shared", LOCK,
        "tests/test_locks.py::test_a_lock_keeps_a_second_process_out_and_ends_with_its_holder",
        "                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n        except",
        "                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)\n        except",
    ),
    ("swept in the instant before the lock, and not seen", LOCK, _FROZEN, "if not temporary.exists():", "if False:"),
    (
        "a folder is swept in the instant before the lock, and that is not seen", LOCK,
        "tests/test_locks.py::test_a_sweep_in_the_instant_before_a_folder_is",
        "        if staging.is_dir():\n            yield", "        if staging:\n            yield",
    ),
    ("all writers use one temporary name", TEMPORARY, _FROZEN, "secrets.token_hex(6)", "'0' * 12"),
    (
        "a sweep takes whatever ends like a temporary", TEMPORARY,
        "tests/test_locks.py::test_a_sweep_takes_only_what_this_door_left",
        "if _TEMPORARY_NAME.fullmatch(path.name)", "if path.name.endswith(TEMPORARY_SUFFIX)",
    ),
    (
        "a write that fails leaves its temporary", TEMPORARY, _WHOLE,
        "            with contextlib.suppress(OSError):\n                temporary.unlink()\n", "",
    ),
    (
        "a folder that cannot be published is left", TEMPORARY, _PUBLISHED,
        "                shutil.rmtree(staging, ignore_errors=True)\n                raise", "                raise",
    ),
)  # fmt: skip

RUNS = of(
    "pipeline/runs.py",
    (
        "a run is not locked", LOCK, "tests/test_runs.py::test_a_second_process_is_refused_and_changes_nothing",
        'with files.hold_lock(self.root / ".lock", "at work in this run directory"), reading_errors(self.root):',
        "with reading_errors(self.root):",
    ),
    (
        "the config is written when the work is done", ORDER,
        "tests/test_runs.py::test_the_resolved_config_is_there_before_work_starts",
        "            if config is not None:\n                files.write_file(self.config, dump_config(config))\n", "",
        "                    yield earlier\n",
        ("                    yield earlier\n                    if config is not None:\n"
         "                        files.write_file(self.config, dump_config(config))\n"),
    ),
    (
        "a run is not swept", TEMPORARY, "tests/test_runs.py::test_what_a_crash_left_is_swept_at_the_next_start",
        "                files.sweep_temporary(folder)", "                pass",
    ),
    (
        "names that an earlier start left unsynced are not synced", FSYNC,
        "tests/reliability/test_power.py::test_killed_before_a_name_lasts_then_resumed_and_then_the_power_fails",
        "            self._settle()\n", "",
    ),
)  # fmt: skip
