"""Defects of the cache: written, sealed, planned, found, read, verified, repaired."""

from __future__ import annotations

from tests.reliability.mutants.kinds import FSYNC, HASH, IDENTITY, LOCK, ORDER, RENAME, TEMPORARY, of
from tests.reliability.mutants.suites import DOOR, MARKS_OF_CAPTURE

_REPAIR = f"{DOOR}::test_repair_never_leaves_a_seal_without_its_shard"
_CACHE = "tests/cache/test_"

CACHE = [
    *of(
        "pipeline/cache/writer.py",
        (
            "a seal before its shard", ORDER, MARKS_OF_CAPTURE,
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
            "a cache is not swept", TEMPORARY, f"{_CACHE}writer.py::test_remains_of_a_crash_are_swept",
            "(self._folder.parent, self._folder)", "(self._folder,)",
        ),
        (
            "shards are not swept", TEMPORARY, f"{_CACHE}writer.py::test_remains_of_a_crash_are_swept",
            "(self._folder.parent, self._folder)", "(self._folder.parent,)",
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
    *of(
        "pipeline/cache/shard.py",
        (
            "a shard is not synced before the seal or the plan that vouches for it", FSYNC, MARKS_OF_CAPTURE,
            "    return files.write_file(path, lambda file: write_zip(file, _in_order(packed)))",
            ('    files.make_folder(path.parent)\n    temporary = path.with_name(f".{path.name}.0123456789ab.tmp")\n'
             '    with open(temporary, "x+b") as file:\n        write_zip(file, _in_order(packed))\n'
             "    temporary.replace(path)\n    files.sync_folder(path.parent)\n    return files.digest_file(path)"),
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
    *of(
        "pipeline/cache/stored_zip.py",
        (
            "what a disk gives back of a shard is not compared", HASH,
            f"{_CACHE}shard.py::test_a_disk_that_gives_back_other_bytes_is_noticed",
            "    return noted.digest()", "    return None",
        ),
    ),
    *of(
        "pipeline/cache/seal.py",
        (
            "a seal is written under its own name", RENAME, MARKS_OF_CAPTURE,
            'files.write_json(path, content | {"digest": files.digest_json(content)})',
            'path.write_bytes(files.canonical_json(content | {"digest": files.digest_json(content)}))',
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
    *of(
        "pipeline/cache/plan.py",
        (
            "a plan is written under its own name", RENAME, MARKS_OF_CAPTURE,
            'files.write_json(path, self._content() | {"hash": self.hash})',
            'path.write_bytes(files.canonical_json(self._content() | {"hash": self.hash}))',
        ),
        (
            "the hash of a plan is not compared", HASH, f"{_CACHE}plan.py::test_a_plan_that_is_not_what_was_saved",
            '        if content_hash != value["hash"]:', "        if False:",
        ),
    ),
    *of(
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
    *of(
        "pipeline/cache/teacher_cache.py",
        (
            "a cache is opened without a look at sizes", HASH,
            f"{_CACHE}teacher_cache.py::test_wrong_sizes_are_seen_at_open_and_wrong_bytes_at_reading",
            "            shard.check_size()", "            pass",
        ),
    ),
    *of(
        "pipeline/cache/sequence_file.py",
        (
            "the digest of the sequences is not compared", HASH,
            f"{_CACHE}sequence_file.py::test_another_file_than_the_plan_names",
            "    if found != digest:", "    if False:",
        ),
    ),
    *of(
        "pipeline/cache/verify.py",
        (
            "verify takes no hash of a whole shard", HASH, f"{_CACHE}verify.py::test_every_single_byte_matters",
            "    if found.xxh3_128 != shard.seal.xxh3_128:", "    if False:",
        ),
        (
            "verify reads no chunk", HASH, f"{_CACHE}verify.py::test_content_no_teacher_writes",
            "    yield from _check_records(plan, shard, sequences)\n", "",
        ),
        (
            "verify does not compare copies", HASH, f"{_CACHE}verify.py::test_copies_that_differ_are_listed",
            "        if kept.seal.xxh3_128 != shard.seal.xxh3_128:", "        if False:",
        ),
    ),
    *of(
        "pipeline/cache/repair.py",
        (
            "repair removes a shard before its seal", ORDER, _REPAIR,
            "        files.remove_file(seal_beside(path))\n        files.remove_file(path)",
            "        files.remove_file(path)\n        files.remove_file(seal_beside(path))",
        ),
        (
            "repair leaves the seal", ORDER, _REPAIR,
            "        files.remove_file(seal_beside(path))\n", "",
        ),
        (
            "repair removes a seal, and does not wait until that lasts", FSYNC, _REPAIR,
            "        files.remove_file(seal_beside(path))\n", "        seal_beside(path).unlink()\n",
        ),
        (
            "repair touches other roots", IDENTITY, f"{_CACHE}verify.py::test_damage_in_a_read_only_root_is_left_alone",
            "        if folder.resolve() not in path.resolve().parents:", "        if False:",
        ),
    ),
    *of(
        "stages/repair.py",
        (
            "repair does not lock the run", LOCK,
            "tests/stages/test_bad_disk.py::test_what_cannot_be_repaired_is_said_with_its_exit_code",
            "    with _held(path):", "    with ExitStack():",
        ),
    ),
    *of(
        "pipeline/cache/roots.py",
        (
            "plans of two roots are not compared", IDENTITY,
            f"{_CACHE}teacher_cache.py::test_two_different_caches_are_told_apart",
            "        if plans and all(other.hash != wanted for _, other in plans):", "        if False:",
        ),
        (
            "packed text of a root is taken as it is", HASH,
            f"{_CACHE}roots.py::test_sequences_and_tokenizer_come_from_the_first_folder_that_has_them",
            "            if files.digest_file(path).xxh3_128 == plan.sequences_digest:", "            if True:",
        ),
    ),
    *of(
        "pipeline/cache/passed_over.py",
        (
            "another copy is passed over with a damaged one", HASH,
            f"{_CACHE}passed_over.py::test_lists_add_up",
            "        return files.digest_file(shard).xxh3_128 in passed_over[shard.name]", "        return True",
        ),
    ),
    *of(
        "pipeline/cache/repair.py",
        (
            "a copy that is as its seal says is listed as damaged", HASH,
            f"{_CACHE}passed_over.py::test_what_has_the_bytes_that_its_seal_names_is_never_listed",
            "            return files.digest_file(shard).xxh3_128 != Seal.load(seal_beside(shard)).xxh3_128",
            "            return True",
        ),
    ),
]  # fmt: skip
