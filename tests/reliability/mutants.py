"""The defects, by where they are; last, with reasons, what nobody can notice."""

from __future__ import annotations

from tests.reliability.mutant import Mutant

KINDS = ("fsync", "rename", "hash or comparison", "order", "lock", "temporary", "identity")
FSYNC, RENAME, HASH, ORDER, LOCK, TEMPORARY, IDENTITY = KINDS

_DOOR = "tests/reliability/test_door.py"
_VERBS = f"{_DOOR}::test_old_or_new_and_then_new_for_good"
_REPAIR = f"{_DOOR}::test_repair_never_leaves_a_seal_without_its_shard"
_OVERWRITTEN = f"{_DOOR}::test_a_checkpoint_that_is_overwritten_stops_counting_first"
_MARKS = "tests/reliability/test_power.py::test_a_mark_comes_after_all_that_it_speaks_of"
_CAPTURE, _TRAINING = f"{_MARKS}[capture]", f"{_MARKS}[training]"
_FROZEN = "tests/reliability/test_writers.py::test_a_writer_frozen_before_each_of_its_operations[False]"
_IDENTITY = "tests/reliability/test_identity.py::test_"
_WHOLE = "tests/test_files.py::test_write_file_is_whole_or_absent_at_every_call"
_READ_BACK = "tests/test_files.py::test_a_disk_that_returns_other_bytes_is_noticed_before_the_rename"
_PUBLISHED = "tests/test_published_folders.py::test_publish_folder_is_old_or_new_at_every_call"
_REMOVED = "tests/test_published_folders.py::test_removed_means_whole_or_absent"
_SWEEPS = "tests/test_locks.py::test_a_temporary_survives_a_sweep_while_its_writer_lives"
_RETENTION = "tests/distill/test_retention.py::test_"
_CACHE = "tests/cache/test_"


def _of(file: str, *mutants: tuple[str, str, str, *tuple[str, ...]]) -> list[Mutant]:
    """Mutants of one file, each as (name, kind, noticed by, old, new, old, new ...)."""
    return [
        Mutant(name, kind, file, suite, tuple(zip(texts[::2], texts[1::2], strict=True)))
        for name, kind, suite, *texts in mutants
    ]


FILES = _of(
    "pipeline/files.py",
    ("the bytes of a file are not synced", FSYNC, _VERBS, "os.fsync(file.fileno())", "pass"),
    ("synced before all is handed to the system", FSYNC, _VERBS, "                file.flush()\n", ""),
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
        "if isinstance(content, bytes) and digest != digest_bytes(content):", "if False:",
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
        "            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n        except",
        "            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)\n        except",
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

RUNS = _of(
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
        "                    yield\n",
        ("                    yield\n                    if config is not None:\n"
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

CACHE = [
    *_of(
        "pipeline/cache/writer.py",
        (
            "a seal before its shard", ORDER, _CAPTURE,
            "        digest = write_shard(\n            path,",
            '        waiting = path.with_name("waiting")\n        digest = write_shard(\n            waiting,',
            "        seal.save(self._folder / span.seal_name)",
            "        seal.save(self._folder / span.seal_name)\n        waiting.rename(path)",
        ),
        (
            "seals of another plan are not looked for", IDENTITY,
            f"{_CACHE}writer.py::test_seals_of_another_plan_are_never_written_over",
            "            Seal.load(path).check_against(plan, path)", "            Seal.load(path)",
        ),
        (
            "sizes of sealed shards are not compared", HASH,
            f"{_CACHE}writer.py::test_a_sealed_shard_of_the_wrong_size_is_said",
            "            copies[0].check_size()", "            pass",
        ),
        (
            "a cache is not swept", TEMPORARY, f"{_CACHE}writer.py::test_remains_of_a_crash_are_swept",
            "            files.sweep_temporary(folder)\n", "",
        ),
        (
            "shards are not swept", TEMPORARY, f"{_CACHE}writer.py::test_remains_of_a_crash_are_swept",
            "            files.sweep_temporary(self._folder)", "            pass",
        ),
        (
            "a shard does not say which sequences it holds", IDENTITY,
            f"{_CACHE}teacher_cache.py::test_shards_of_the_same_records_that_changed_places",
            ', "first": span.first}', "}",
        ),
        (
            "a shard does not say of which cache it is", IDENTITY,
            f"{_CACHE}teacher_cache.py::test_a_shard_of_another_cache_in_the_place_of_its_own",
            ', "plan_hash": plan.hash, ', ", ",
        ),
    ),
    *_of(
        "pipeline/cache/shard.py",
        (
            "a shard is written under its own name", RENAME, _CAPTURE,
            "    return files.write_file(path, lambda file: _write_zip(file, packed))",
            ('    files.make_folder(path.parent)\n    with open(path, "w+b") as file:\n'
             "        _write_zip(file, packed)\n    return files.digest_file(path)"),
        ),
        (
            "the checksum of a chunk is not compared", HASH,
            f"{_CACHE}shard.py::test_entries_that_should_not_be",
            "    if stored != found:", "    if False:",
        ),
        (
            "the size of a chunk is not compared", HASH, f"{_CACHE}shard.py::test_entries_that_should_not_be",
            "    if size != array.chunk_bytes:", "    if False:",
        ),
        (
            "entries are not compared with those that must be there", HASH,
            f"{_CACHE}shard.py::test_entries_that_should_not_be",
            "        if names != expected:", "        if False:",
        ),
        (
            "metadata are not compared", HASH, f"{_CACHE}shard.py::test_a_shard_of_another_place_is_refused",
            "            if archive.read(name) != expected_bytes:", "            if False:",
        ),
        (
            "entries that the zip compressed are taken", HASH,
            f"{_CACHE}shard.py::test_an_entry_compressed_by_the_zip_is_refused",
            "            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:",
            "            if False:",
        ),
    ),
    *_of(
        "pipeline/cache/seal.py",
        (
            "a seal is written under its own name", RENAME, _CAPTURE,
            'files.write_json(path, content | {"digest": _digest(content)})',
            'path.write_bytes(files.canonical_json(content | {"digest": _digest(content)}))',
        ),
        (
            "the digest of a seal is not compared", HASH, f"{_CACHE}seal.py::test_damaged_seals",
            "        if problem is None and damaged:", "        if False:",
        ),
        (
            "a seal may speak of another file", HASH, f"{_CACHE}seal.py::test_a_seal_under_the_name_of_another",
            '        if problem is None and value["shard"] != path.name.removesuffix(SEAL_SUFFIX) + ".shard":',
            "        if False:",
        ),
        (
            "the plan of a seal is not compared", IDENTITY, f"{_CACHE}seal.py",
            "        if self.plan_hash != plan.hash:", "        if False:",
        ),
        (
            "the sequences of a seal are not compared", IDENTITY, f"{_CACHE}seal.py",
            "        if span is not None and (span.first, span.count) == (self.first, self.count):",
            "        if span is not None:",
        ),
    ),
    *_of(
        "pipeline/cache/plan.py",
        (
            "a plan is written under its own name", RENAME, _CAPTURE,
            'files.write_json(path, self._content() | {"hash": self.hash})',
            'path.write_bytes(files.canonical_json(self._content() | {"hash": self.hash}))',
        ),
        (
            "the hash of a plan is not compared", HASH, f"{_CACHE}plan.py::test_a_plan_that_is_not_what_was_saved",
            '        if content_hash != value["hash"]:', "        if False:",
        ),
    ),
    *_of(
        "pipeline/cache/roots.py",
        (
            "two plans in one root are taken for one", IDENTITY,
            f"{_CACHE}teacher_cache.py::test_two_different_caches_are_told_apart",
            "    _refuse_two(first)\n", "",
        ),
        (
            "a short shard of another root is taken", HASH,
            f"{_CACHE}roots.py::test_a_short_copy_of_a_shard_in_another_root_is_passed_over_and_said",
            "                    shard.check_size()", "                    pass",
        ),
        (
            "seals of another plan are not passed over", IDENTITY,
            f"{_CACHE}teacher_cache.py::test_parts_are_found_at_any_depth_by_plan_and_not_by_path",
            "            if seal.plan_hash == wanted:", "            if True:",
        ),
        (
            "the size of a shard is not compared with its seal", HASH,
            f"{_CACHE}teacher_cache.py::test_wrong_sizes_are_seen_at_open_and_wrong_bytes_at_reading",
            "        if found != self.seal.size_bytes:", "        if found is None:",
        ),
    ),
    *_of(
        "pipeline/cache/teacher_cache.py",
        (
            "a cache is opened without a look at sizes", HASH,
            f"{_CACHE}teacher_cache.py::test_wrong_sizes_are_seen_at_open_and_wrong_bytes_at_reading",
            "            shard.check_size()", "            pass",
        ),
    ),
    *_of(
        "pipeline/cache/sequence_file.py",
        (
            "the digest of the sequences is not compared", HASH,
            f"{_CACHE}sequence_file.py::test_another_file_than_the_plan_names",
            "    if found != digest:", "    if False:",
        ),
    ),
    *_of(
        "pipeline/cache/verify.py",
        (
            "verify takes no hash of a whole shard", HASH, f"{_CACHE}verify.py::test_every_single_byte_matters",
            "        if found.xxh3_128 != shard.seal.xxh3_128:", "        if False:",
        ),
        (
            "verify reads no chunk", HASH, f"{_CACHE}verify.py::test_content_no_teacher_writes",
            "        yield from _check_records(plan, shard, sequences)\n", "",
        ),
        (
            "verify does not compare copies", HASH, f"{_CACHE}verify.py::test_copies_that_differ_are_listed",
            "        if kept.seal.xxh3_128 != shard.seal.xxh3_128:", "        if False:",
        ),
        (
            "repair removes a shard before its seal", ORDER, _REPAIR,
            "        files.remove_file(_seal_of(path))\n        files.remove_file(path)",
            "        files.remove_file(path)\n        files.remove_file(_seal_of(path))",
        ),
        (
            "repair leaves the seal", ORDER, _REPAIR,
            "        files.remove_file(_seal_of(path))\n", "",
        ),
        (
            "repair removes a seal, and does not wait until that lasts", FSYNC, _REPAIR,
            "        files.remove_file(_seal_of(path))\n", "        _seal_of(path).unlink()\n",
        ),
        (
            "repair touches other roots", IDENTITY, f"{_CACHE}verify.py::test_damage_in_a_read_only_root_is_left_alone",
            "        if folder.resolve() not in path.resolve().parents:", "        if False:",
        ),
    ),
    *_of(
        "stages/repair.py",
        (
            "repair does not lock the run", LOCK,
            "tests/stages/test_bad_disk.py::test_what_cannot_be_repaired_is_said_with_its_exit_code",
            "    with _held(path):", "    with nullcontext():",
        ),
    ),
]  # fmt: skip

MODELS = [
    *_of(
        "pipeline/models/planning.py",
        (
            "a plan before its tokenizer", ORDER, _CAPTURE,
            "    files.publish_folder(folder / TOKENIZER_FOLDER, tokenizer.save)\n", "",
            "    plan.save(folder / PLAN_NAME)\n",
            ("    plan.save(folder / PLAN_NAME)\n"
            "    files.publish_folder(folder / TOKENIZER_FOLDER, tokenizer.save)\n"),
        ),
        (
            "a plan before its data report", ORDER, _CAPTURE,
            "    files.write_json(folder / DATA_REPORT_NAME, report.to_json())\n", "",
            "    plan.save(folder / PLAN_NAME)\n",
            "    plan.save(folder / PLAN_NAME)\n    files.write_json(folder / DATA_REPORT_NAME, report.to_json())\n",
        ),
        (
            "sequences that are packed again are not compared", IDENTITY,
            f"{_IDENTITY}other_texts_for_lost_sequences",
            "    if digest.xxh3_128 != plan.sequences_digest:", "    if False:",
        ),
    ),
    *_of(
        "pipeline/models/cache_identity.py",
        (
            "texts are not compared", IDENTITY, f"{_IDENTITY}other_texts[longer]",
            '    found += _differences("source", before["source"], lambda: source_fingerprint(data))\n', "",
        ),
        (
            "the tokenizer is not compared", IDENTITY, f"{_IDENTITY}another_tokenizer",
            ('        found += _differences("tokenizer", before["tokenizer"], '
            "lambda: _tokenizer(plan, model).fingerprint())\n"), "",
        ),
        (
            "the teacher is not compared", IDENTITY, f"{_IDENTITY}one_bit_of_the_teacher[0]",
            ('        found += _differences("teacher", weights, '
            "lambda: quick_fingerprint(model.model, model.revision))\n"), "",
        ),
        (
            "settings are not compared", IDENTITY, f"{_IDENTITY}identity[cache.seed]",
            "    found = differences({key: planned[key] for key in shared}, {key: now[key] for key in shared})",
            "    found: list[str] = []",
        ),
        (
            "what a probe chose is not compared", IDENTITY, f"{_IDENTITY}identity[cache.batch_size]",
            "    return found + _probed_differences(plan, data, teacher, cache)", "    return found",
        ),
    ),
    *_of(
        "pipeline/models/fingerprint.py",
        (
            "of weights only the size is looked at", IDENTITY, f"{_IDENTITY}one_bit_of_the_teacher[0]",
            '{"size_bytes": size_bytes, "samples_sha256": _hash_samples(file, size_bytes)}',
            '{"size_bytes": size_bytes}',
        ),
        (
            "of weights only the beginning is looked at", IDENTITY,
            "tests/models/test_fingerprint.py::test_samples_reach_past_the_beginning_of_a_file",
            "        file.seek(last_start * index // (_SAMPLES - 1))\n", "",
        ),
    ),
    *_of(
        "pipeline/data/planned_tokenizer.py",
        (
            "the tokenizer beside the plan is not compared", IDENTITY,
            "tests/stages/test_bad_disk.py::test_another_tokenizer_beside_the_plan_is_noticed_and_mended",
            "    if found := differences(planned, tokenizer.fingerprint()):",
            "    if found := differences(planned, planned):",
        ),
    ),
    *_of(
        "pipeline/data/report.py",
        (
            "the digest of a data report is not compared", HASH,
            "tests/data/test_report.py::test_no_figure_of_it_changes_unnoticed",
            "        if damaged:", "        if False:",
        ),
    ),
]  # fmt: skip

TRAINING = [
    *_of(
        "pipeline/distill/keeping/checkpoint.py",
        (
            "COMMIT.json before the tensors", ORDER, _TRAINING,
            "    for name, named in tensors.items():",
            "    later = {}\n    for name, named in tensors.items():",
            '        digests[f"{name}.safetensors"] = files.write_file(target / f"{name}.safetensors", content)',
            '        digests[f"{name}.safetensors"] = files.digest_bytes(content)\n        later[name] = content',
            "    return open_checkpoint(target)",
            ("    for name, content in later.items():\n"
            '        files.write_file(target / f"{name}.safetensors", content)\n    return open_checkpoint(target)'),
        ),
        (
            "an old COMMIT.json stays while its checkpoint is overwritten", ORDER, _OVERWRITTEN,
            "        files.remove_file(target / COMMIT)", "        pass",
        ),
        (
            "tensors are written under their own name", RENAME, _TRAINING,
            'files.write_file(target / f"{name}.safetensors", content)',
            ('files.digest_bytes(content)\n        files.make_folder(target)\n'
            '        (target / f"{name}.safetensors").write_bytes(content)'),
        ),
        (
            "a checkpoint is not read back", HASH, f"{_RETENTION}one_that_does_not_read_back_costs_no_other",
            "    return open_checkpoint(target)", '    return Checkpoint(target, step, {"step": step, **state})',
        ),
        (
            "COMMIT.json need not list the state", HASH,
            f"{_RETENTION}one_whose_state_nothing_vouches_for_does_not_count",
            "    if _STATE not in check_commit(folder):", "    if check_commit(folder) is None:",
        ),
        (
            "a checkpoint that cannot be read now is passed over", ORDER,
            f"{_RETENTION}what_cannot_be_read_now_is_not_passed_over",
            " or (kept and not isinstance(error, FileNotFoundError)):", ":",
        ),
        (
            "a checkpoint of another format is read", IDENTITY, f"{_RETENTION}what_another_version_wrote_is_left_to_it",
            '    if state.get("format") != FORMAT_VERSION:', "    if False:",
        ),
        (
            "the older checkpoints are kept unread", HASH, f"{_RETENTION}a_damaged_one_is_not_one_of_the_two",
            "(known or _is_valid(path))", "(known or True)",
        ),
        (
            "best weights go although a checkpoint refers to them", ORDER,
            f"{_RETENTION}the_two_newest_and_the_best_they_refer_to",
            '            kept.add((files.read_json(path / _STATE).get("best") or {}).get("step"))',
            "            files.read_json(path / _STATE)",
        ),
    ),
    *_of(
        "pipeline/distill/keeping/verify.py",
        (
            "the exported model is not compared", HASH,
            "tests/stages/test_verify_student.py::test_every_file_that_is_harmed_is_named",
            "        check_commit(folder)", "        pass",
        ),
    ),
    *_of(
        "pipeline/commits.py",
        (
            "hashes of a checkpoint are not compared", HASH, f"{_RETENTION}a_damaged_one_is_not_one_of_the_two",
            '        if not same_size or files.digest_file(file).xxh3_128 != expected.get("xxh3_128"):',
            "        if not same_size:",
        ),
    ),
    *_of(
        "pipeline/distill/keeping/metrics_log.py",
        ("logs are not synced", FSYNC, _TRAINING, "                files.sync_file(path)", "                pass"),
        (
            "the digest of a log is not compared", HASH,
            "tests/stages/test_verify_student.py::test_a_damaged_log_is_told_and_training_goes_on",
            '    if files.digest_bytes(content[:size_bytes]).xxh3_128 != logged["xxh3_128"]:', "    if False:",
        ),
    ),
    *_of(
        "pipeline/distill/keeping/export.py",
        (
            "the model is written under its own name", RENAME,
            f"{_DOOR}::test_an_export_that_fails_leaves_the_model_that_was_there",
            "    files.publish_folder(folder, fill)", "    files.make_folder(folder)\n    fill(folder)",
        ),
    ),
    *_of(
        "pipeline/distill/journal.py",
        (
            "a checkpoint before its log", ORDER, _TRAINING,
            "        self.log.sync()\n        state", "        state",
            "        self._checked.add(saved.folder)\n        self.newest",
            "        self.log.sync()\n        self._checked.add(saved.folder)\n        self.newest",
        ),
        (
            "older checkpoints go before the newer one is there", ORDER, _TRAINING,
            "        self.log.sync()\n        state",
            ("        self.log.sync()\n        for old in self._checkpoints.glob('step-*'):\n"
             "            __import__('shutil').rmtree(old)\n        state"),
        ),
        (
            "the identity of a training is not compared", IDENTITY, f"{_IDENTITY}schedule[train.seed]",
            '        if own is not None and own.state["training_hash"] != self._hash:', "        if False:",
        ),
        (
            "a checkpoint of another training in a root is continued", IDENTITY,
            "tests/stages/test_resume.py::test_a_root_of_another_training_alone_is_named_and_not_continued",
            'newest_checkpoint([], lambda state: state.get("training_hash") == self._hash, roots)',
            "newest_checkpoint([], roots=roots)",
        ),
    ),
    *_of(
        "pipeline/distill/batching/difficulty.py",
        (
            "the digest of difficulties is not compared", HASH,
            "tests/distill/test_difficulty.py::test_what_cannot_be_trusted_is_measured_again",
            "    if digest != _digest(content) or {", "    if {",
        ),
        (
            "the plan of difficulties is not compared", IDENTITY,
            "tests/distill/test_difficulty.py::test_what_cannot_be_trusted_is_measured_again",
            "    if digest != _digest(content) or {key: content.get(key) for key in expected} != expected:",
            "    if digest != _digest(content):",
        ),
    ),
]  # fmt: skip

MUTANTS = [*FILES, *RUNS, *CACHE, *MODELS, *TRAINING]

# Nobody can notice these, and they do not count:
# - `check_commit` compares no sizes, `_check_shard` of verify neither, `_check_file` of sequences knows no largest one:
#   bytes of another size have another hash, which is compared as well. What is huge is only refused later.
# - COMMIT.json stays in a checkpoint that is let go of: the folder takes a temporary name in one step before anything
#   in it goes, and no checkpoint is looked for under such a name.
