"""Defects of checkpoints, logs, the exported model and the order of a training."""

from __future__ import annotations

from tests.reliability.mutants.kinds import FSYNC, HASH, IDENTITY, ORDER, RENAME, of
from tests.reliability.mutants.suites import DOOR, IDENTITY_TESTS, MARKS_OF_TRAINING

_OVERWRITTEN = f"{DOOR}::test_a_checkpoint_that_is_overwritten_stops_counting_first"
_ORDER = "tests/distill/test_order.py::test_"
_DAMAGED_STUDENT = "tests/stages/test_verify_student.py::test_a_damaged_student_is_not_evaluated_and_exported_anew"
_RETENTION = "tests/distill/test_retention.py::test_"

TRAINING = [
    *of(
        "pipeline/distill/keeping/checkpoint.py",
        (
            "COMMIT.json before the tensors", ORDER, MARKS_OF_TRAINING,
            "    for name, named in tensors.items():",
            "    later = {}\n    for name, named in tensors.items():",
            '        digests[f"{name}.safetensors"] = files.write_file(target / f"{name}.safetensors", content)',
            '        digests[f"{name}.safetensors"] = files.digest_bytes(content)\n        later[name] = content',
            "        return open_checkpoint(target)",
            ("        for name, content in later.items():\n"
            '            files.write_file(target / f"{name}.safetensors", content)\n'
            "        return open_checkpoint(target)"),
        ),
        (
            "an old COMMIT.json stays while its checkpoint is overwritten", ORDER, _OVERWRITTEN,
            "        files.remove_file(target / COMMIT)", "        pass",
        ),
        (
            "tensors are not synced before COMMIT.json", FSYNC, MARKS_OF_TRAINING,
            'files.write_file(target / f"{name}.safetensors", content)',
            ('files.digest_bytes(content)\n        files.make_folder(target)\n'
            '        temporary = target / f".{name}.0123456789ab.tmp"\n        temporary.write_bytes(content)\n'
            '        temporary.replace(target / f"{name}.safetensors")\n        files.sync_folder(target)'),
        ),
        (
            "a checkpoint is not read back", HASH, f"{_RETENTION}one_that_does_not_read_back_costs_no_other",
            "    return open_checkpoint(target)", '    return Checkpoint(target, step, {"step": step, **state})',
        ),
        (
            "COMMIT.json need not list the state", HASH,
            f"{_RETENTION}one_whose_state_nothing_vouches_for_does_not_count",
            "    if _STATE not in check_commit(folder, None if whole else _STATE):",
            "    if check_commit(folder, None if whole else _STATE) is None:",
        ),
        (
            "a checkpoint that cannot be read now is passed over", ORDER,
            "tests/distill/test_unreadable_checkpoints.py::test_what_cannot_be_read_now_is_not_passed_over",
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
    *of(
        "pipeline/distill/keeping/verify.py",
        (
            "the exported model is not compared", HASH,
            "tests/stages/test_verify_student.py::test_every_file_that_is_harmed_is_named",
            "        check_commit(folder)", "        pass",
        ),
    ),
    *of(
        "pipeline/commits.py",
        (
            "hashes of a checkpoint are not compared", HASH, f"{_RETENTION}a_damaged_one_is_not_one_of_the_two",
            ' or (is_read and files.digest_file(file).xxh3_128 != expected.get("xxh3_128")):', ":",
        ),
    ),
    *of(
        "pipeline/distill/keeping/metrics_log.py",
        (
            "logs are not synced", FSYNC, MARKS_OF_TRAINING,
            "                files.sync_file(path)", "                pass",
        ),
        (
            "the digest of a log is not compared", HASH,
            "tests/stages/test_verify_student.py::test_a_damaged_log_is_told_and_training_goes_on",
            '    if files.digest_bytes(content[:size_bytes]).xxh3_128 != logged["xxh3_128"]:', "    if False:",
        ),
    ),
    *of(
        "pipeline/distill/keeping/export.py",
        (
            "the model is written under its own name", RENAME,
            f"{DOOR}::test_an_export_that_fails_leaves_the_model_that_was_there",
            "    files.publish_folder(folder, fill)", "    files.make_folder(folder)\n    fill(folder)",
        ),
        (
            "a damaged model is taken for the exported one", HASH, _DAMAGED_STUDENT,
            "        check_commit(folder)", "        pass",
        ),
    ),
    *of(
        "pipeline/distill/journal.py",
        (
            "a checkpoint before its log", ORDER, MARKS_OF_TRAINING,
            "        self.log.sync()\n        state", "        state",
            "        self._checked.add(saved.folder)\n        self.newest",
            "        self.log.sync()\n        self._checked.add(saved.folder)\n        self.newest",
        ),
        (
            "older checkpoints go before the newer one is there", ORDER, MARKS_OF_TRAINING,
            "        self.log.sync()\n        state",
            ("        self.log.sync()\n        for old in self._checkpoints.glob('step-*'):\n"
             "            __import__('shutil').rmtree(old)\n        state"),
        ),
        (
            "the identity of a training is not compared", IDENTITY, f"{IDENTITY_TESTS}schedule[train.seed]",
            '        if own is not None and identity_in(own.state) != self.training:', "        if False:",
        ),
        (
            "a checkpoint of another training in a root is continued", IDENTITY,
            "tests/stages/test_resume.py::test_a_root_of_another_training_alone_is_named_and_not_continued",
            'newest_checkpoint((), lambda state: identity_in(state) == self.training, roots=self.roots)',
            "newest_checkpoint(roots=self.roots)",
        ),
    ),
    *of(
        "pipeline/distill/batching/difficulty.py",
        (
            "the digest of difficulties is not compared", HASH,
            "tests/distill/test_difficulty.py::test_what_cannot_be_trusted_is_measured_again",
            "    if digest != files.digest_json(content) or {", "    if {",
        ),
        (
            "the plan of difficulties is not compared", IDENTITY,
            "tests/distill/test_difficulty.py::test_what_cannot_be_trusted_is_measured_again",
            "    if digest != files.digest_json(content) or {key: content.get(key) for key in expected} != expected:",
            "    if digest != files.digest_json(content):",
        ),
    ),
    *of(
        "pipeline/distill/batching/order.py",
        (
            "every epoch has the order of the first", ORDER, f"{_ORDER}epochs_and_seeds_differ",
            "np.array([0, 0, stream, epoch], np.uint64)", "np.array([0, 0, stream, 0], np.uint64)",
        ),
        (
            "every window of an epoch has the order of the first", ORDER, f"{_ORDER}the_order_is_pinned",
            "self._permutation(len(part), epoch, 1 + number)", "self._permutation(len(part), epoch, 1)",
        ),
    ),
    *of(
        "pipeline/distill/ranks.py",
        (
            "a sequence goes to two processes", ORDER,
            "tests/distill/test_ranks.py::test_shares_are_all_of_it_once_in_order_and_even",
            "total * (self.number + 1) // self.count)", "total * (self.number + 1) // self.count + 1)",
        ),
    ),
    *of(
        "stages/train_student.py",
        (
            "a resumed training begins its order anew", ORDER,
            "tests/stages/test_resume.py::test_resumes_from_a_read_only_root",
            "        steps=range(done, num_steps),", "        steps=range(num_steps - done),",
        ),
    ),
    *of(
        "pipeline/evaluation/digests.py",
        (
            "the digest of figures is not compared", HASH,
            "tests/evaluation/test_summary.py::test_a_figure_that_has_changed_is_refused_and_an_older_file_is_read",
            '    if "digest" in value and value["digest"] != files.digest_json(rest):', "    if False:",
        ),
    ),
    *of(
        "pipeline/evaluation/headline.py",
        (
            "figures of another training are taken for this one's", IDENTITY,
            "tests/stages/test_report.py::test_figures_of_another_training_are_told",
            "    if student.training_hash != story.standing.training_hash:", "    if False:",
        ),
    ),
    *of(
        "pipeline/models/loading.py",
        (
            "a model that was damaged since its export is loaded", HASH, _DAMAGED_STUDENT,
            "        check_commit(folder)", "        pass",
        ),
    ),
]  # fmt: skip
