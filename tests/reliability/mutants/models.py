"""Defects of what a plan promises of teacher, tokenizer and text."""

from __future__ import annotations

from tests.reliability.mutants.kinds import HASH, IDENTITY, ORDER, of
from tests.reliability.mutants.suites import IDENTITY_TESTS, MARKS_OF_CAPTURE

MODELS = [
    *of(
        "pipeline/models/planning.py",
        (
            "a plan before its tokenizer", ORDER, MARKS_OF_CAPTURE,
            "    publish_tokenizer(tokenizer, folder / TOKENIZER_FOLDER)\n", "",
            "    plan.save(folder / PLAN_NAME)\n",
            ("    plan.save(folder / PLAN_NAME)\n"
            "    publish_tokenizer(tokenizer, folder / TOKENIZER_FOLDER)\n"),
        ),
        (
            "a plan before its data report", ORDER, MARKS_OF_CAPTURE,
            "    files.write_json(folder / DATA_REPORT_NAME, report.to_json())\n", "",
            "    plan.save(folder / PLAN_NAME)\n",
            "    plan.save(folder / PLAN_NAME)\n    files.write_json(folder / DATA_REPORT_NAME, report.to_json())\n",
        ),
        (
            "sequences that are packed again are not compared", IDENTITY,
            f"{IDENTITY_TESTS}other_texts_for_lost_sequences",
            "    if digest.xxh3_128 != plan.sequences_digest:", "    if False:",
        ),
    ),
    *of(
        "pipeline/models/cache_identity.py",
        (
            "texts are not compared", IDENTITY, f"{IDENTITY_TESTS}other_texts[longer]",
            '    found += _differences("source", before["source"], lambda: source_fingerprint(data))\n', "",
        ),
        (
            "the tokenizer is not compared", IDENTITY, f"{IDENTITY_TESTS}another_tokenizer",
            ('        found += _differences("tokenizer", before["tokenizer"], '
            "lambda: teachers_tokenizer(plan, model).fingerprint())\n"), "",
        ),
        (
            "the teacher is not compared", IDENTITY, f"{IDENTITY_TESTS}one_bit_of_the_teacher[0]",
            ('        found += _differences("teacher", weights, '
            "lambda: quick_fingerprint(model.model, model.revision))\n"), "",
        ),
        (
            "settings are not compared", IDENTITY, f"{IDENTITY_TESTS}identity[cache.seed]",
            "    found = differences({key: planned[key] for key in shared}, {key: now[key] for key in shared})",
            "    found: list[str] = []",
        ),
        (
            "what a probe chose is not compared", IDENTITY, f"{IDENTITY_TESTS}identity[cache.batch_size]",
            "    return found + _probed_differences(plan, data, teacher, cache)", "    return found",
        ),
    ),
    *of(
        "pipeline/models/fingerprint.py",
        (
            "of weights only the size is looked at", IDENTITY, f"{IDENTITY_TESTS}one_bit_of_the_teacher[0]",
            '{"size_bytes": size_bytes, "samples_sha256": _hash_samples(file, size_bytes)}',
            '{"size_bytes": size_bytes}',
        ),
        (
            "of weights only the beginning is looked at", IDENTITY,
            "tests/models/test_fingerprint.py::test_samples_reach_past_the_beginning_of_a_file",
            "        file.seek(last_start * index // (_SAMPLES - 1))\n", "",
        ),
    ),
    *of(
        "pipeline/data/planned_tokenizer.py",
        (
            "the tokenizer beside the plan is not compared", IDENTITY,
            "tests/stages/test_bad_disk.py::test_another_tokenizer_beside_the_plan_is_noticed_and_mended",
            "    if found := differences(planned, tokenizer.fingerprint()):",
            "    if found := differences(planned, planned):",
        ),
        (
            "the files of the tokenizer beside the plan are not compared", HASH,
            "tests/stages/test_bad_disk.py::test_another_tokenizer_beside_the_plan_is_noticed_and_mended[spare]",
            "            check_commit(folder)\n", "            pass\n",
        ),
    ),
    *of(
        "pipeline/data/report.py",
        (
            "the digest of a data report is not compared", HASH,
            "tests/data/test_report.py::test_no_figure_of_it_changes_unnoticed",
            "        if damaged:", "        if False:",
        ),
    ),
]  # fmt: skip
