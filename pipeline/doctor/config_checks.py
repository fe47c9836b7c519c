"""What a config asks, held against the facts of a machine: a pure judgement, by the estimate's own formulae."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.console import format_bytes
from pipeline.distill.keeping.checkpoint import checkpoint_bytes
from pipeline.distill.settings import TrainSettings
from pipeline.doctor.asked import Asked, AskedCache, AskedModel, Found
from pipeline.doctor.check import Check
from pipeline.doctor.facts import Machine
from pipeline.doctor.machine_checks import capability_for, card_for, named, room_bytes
from pipeline.errors import MachineError
from pipeline.models.device import dtype_for
from pipeline.models.probe import CUDA_MEMORY_SHARE, MAX_SHARD_BYTES
from pipeline.models.sizes import ModelSize
from pipeline.pricing.memory import CaptureMemory, TrainingMemory, all_checkpoints_bytes

_FLOAT32_BYTES = 4
_PADDING = 0.1  # of a matrix's rows, at most
_OF_THE_FAMILY = "a student of the teacher's family, or student.config"
_MORE_ROOM = "free some, or --run-dir FOLDER on another disk"


def check_asked(machine: Machine, asked: Asked) -> Iterator[Check]:
    """What is there, in what precision it runs, and whether memory and disk hold it."""
    for model in (asked.teacher, asked.student):
        if model is not None:
            parameters = f", {model.size.num_parameters:,} parameters" if model.size else ""
            yield _found(model.role, model.found, parameters)
            yield check_dtype(machine, model)
            yield from _check_length(model, asked)
    yield from _check_vocabularies(asked)
    if asked.eval_teacher is not None:
        yield _found("eval.teacher", asked.eval_teacher, "; eval refuses any other than teacher.model")
    for name, found in asked.baselines.items():
        if found.problem:
            yield Check("baseline", "note", f"{name}: {found.problem}", "a model by the time eval runs")
        else:
            yield _found("baseline", found)
    if asked.text is not None:
        yield _found("text", asked.text)
    if asked.cache is not None:
        yield _found("cache", asked.cache.found)
    yield from check_sizes(machine, asked)
    if asked.cache is not None:
        yield _check_room(machine, asked, asked.cache)


def _check_vocabularies(asked: Asked) -> Iterator[Check]:
    """A fault where a student has fewer ids than its teacher, whose matrix may be padded by a tenth, or other ones."""
    teacher = None if asked.teacher is None else asked.teacher.size
    student = None if asked.student is None else asked.student.size
    planned = None if asked.cache is None else asked.cache.vocab_size
    wanted = planned if planned is not None or teacher is None else int((1 - _PADDING) * teacher.vocab_size)
    if student is not None and wanted is not None and student.vocab_size < wanted:
        found = f"the student has {student.vocab_size:,} ids"
        expected = f"at least {wanted:,}: it needs the teacher's tokenizer"
        yield Check("vocabulary", "fault", found, expected, _OF_THE_FAMILY)
    elif asked.other_tokenizer:
        found = "the student's tokenizer is not the teacher's, and the cached ids would mean other text to it"
        yield Check("tokenizer", "fault", found, "one and the same", _OF_THE_FAMILY)


def _check_length(model: AskedModel, asked: Asked) -> Iterator[Check]:
    """A fault where sequences are longer than a model is made for."""
    longest, num_positions = None if model.size is None else model.size.max_positions, asked.sequence_length
    if num_positions is not None and longest is not None and num_positions > longest:
        found = f"data.sequence_length is {num_positions:,}"
        fix = f"--set data.sequence_length={longest}, or a smaller one"
        if model.positions_key:
            fix = f"--set {model.positions_key}={num_positions}"
        elif asked.cache is not None and asked.cache.planned:
            fix = f"another {model.role}, or another cache with --run-dir FOLDER"
        yield Check(
            "length", "fault", found, f"at most {longest:,} positions: the {model.role} is made for no more", fix
        )


def check_dtype(machine: Machine, model: AskedModel) -> Check:
    """Does the card have the precision that is asked for."""
    key = "teacher.dtype" if model.role == "teacher" else "train.dtype"
    card = card_for(machine, model.device)
    try:
        dtype = str(dtype_for(model.dtype, capability_for(machine, model.device))).removeprefix("torch.")
    except MachineError:
        assert card is not None, "a CPU has every precision"
        found = f"{key} is {model.dtype}, and this is a {named(card.name, card.capability)}"
        fix = f"--set {key}=float16, or float32 where float16 overflows"
        if model.planned:
            fix = "go on with this cache on such a card, or begin another one with --run-dir FOLDER"
        return Check("dtype", "fault", found, "a card of capability 8.0 or newer for bfloat16", fix)
    how = "products of the student" if model.role == "student" else "the teacher"
    return Check("dtype", "ok", f"{how} in {dtype} ({key}: {model.dtype}), on the {'CPU' if card is None else 'card'}")


def check_sizes(machine: Machine, asked: Asked) -> Iterator[Check]:
    """Do the known parts of a capture and of a training fit in memory, by sizes alone."""
    teacher, student = asked.teacher, asked.student
    if teacher is not None and teacher.size is not None and asked.cache_settings is not None:
        yield from _check_capture(machine, asked, teacher, teacher.size)
    if student is not None and student.size is not None and asked.train_settings is not None:
        yield _check_training(machine, asked.train_settings, student, student.size)


def _check_capture(machine: Machine, asked: Asked, teacher: AskedModel, size: ModelSize) -> Iterator[Check]:
    assert asked.cache_settings is not None
    card = card_for(machine, teacher.device)
    try:
        item_bytes = dtype_for(teacher.dtype, capability_for(machine, teacher.device)).itemsize
    except MachineError:  # told by check_dtype
        return
    weights = item_bytes * size.num_parameters
    memory = CaptureMemory.of(asked.cache_settings, weights, size.vocab_size, card is not None)
    probed = card is not None and asked.cache_settings.batch_size is None and not teacher.planned
    parts = f"capture needs {format_bytes(memory.weights)} of weights, {format_bytes(memory.logits)} of logits"
    share = CUDA_MEMORY_SHARE if probed else 1.0
    fix = "a smaller teacher, or --set teacher.device=cpu with time" if card else "a smaller teacher, or a card"
    if card is not None and probed and memory.known_parts <= card.total_bytes:
        fix = f"--set cache.batch_size=1, which may use all of it, {fix}"
    yield _held(machine, teacher, memory.known_parts, parts, share, fix)
    if card is not None and machine.memory.free_bytes < weights:
        found = f"{format_bytes(machine.memory.free_bytes)} of main memory free"
        expected = f"{format_bytes(weights)}: the teacher is loaded there before it goes to the card"
        yield Check("memory", "note", found, expected, "end other programs on this machine")


def _check_training(machine: Machine, settings: TrainSettings, student: AskedModel, size: ModelSize) -> Check:
    weights = _FLOAT32_BYTES * size.num_parameters
    on_card = card_for(machine, student.device) is not None
    memory = TrainingMemory.of(settings, weights, weights, size.matrix, size.vocab_size, on_card)
    parts = f"training needs {format_bytes(memory.known_parts)} and its activations"
    smaller = "a smaller student or a smaller train.chunk_positions"
    if memory.average:
        smaller = "for a new training --set train.ema_decay=0, " + smaller
        if on_card:
            smaller = "--set train.ema_device=host, " + smaller
    held = _held(machine, student, memory.known_parts, parts, 1.0, smaller)
    card, guard = card_for(machine, student.device), settings.memory_guard
    if held.state == "ok" and card is not None and 0 < guard * card.total_bytes < memory.known_parts:
        within = f"less than {guard:.0%} of it (train.memory_guard): above, a step is computed in smaller pieces"
        return Check("memory", "note", held.found, within, smaller)
    return held


def _held(machine: Machine, model: AskedModel, needed: int, parts: str, share: float, smaller: str) -> Check:
    """Whether the memory where a model runs holds what it needs at least; `share` of it may be used."""
    card = card_for(machine, model.device)
    total, free = (
        (machine.memory.total_bytes, machine.memory.free_bytes) if card is None else (card.total_bytes, card.free_bytes)
    )
    where = "this machine" if card is None else f"the {card.name}"
    found = f"{parts}; {where} has {format_bytes(total)}, {format_bytes(free)} free"
    if needed > share * total:
        within = f"{format_bytes(needed)} to fit in {f'{share:.0%} of ' if share < 1 else ''}it"
        return Check("memory", "fault", found, within, smaller)
    if needed > free:
        wanted = f"{format_bytes(needed)} free"
        if card is None:
            return Check("memory", "note", found, wanted, "end other programs on this machine")
        return Check("memory", "fault", found, wanted, "nvidia-smi lists what uses the card: end that")
    return Check("memory", "ok", found)


def _check_room(machine: Machine, asked: Asked, cache: AskedCache) -> Check:
    """What the run will still write, as far as that is known, beside what the disk has room for."""
    room = room_bytes(machine)
    least = student = 0.0
    if asked.student is not None and asked.student.size is not None and asked.train_settings is not None:
        weights = _FLOAT32_BYTES * asked.student.size.num_parameters
        checkpoint = checkpoint_bytes(asked.train_settings, weights)
        student = max(0.0, all_checkpoints_bytes(checkpoint, weights) + weights - asked.trained_bytes)
        least = min(student, checkpoint + 2 * weights)
    free = "what is free the system does not say" if room is None else f"{format_bytes(room)} free"
    if cache.tokens_left is None or cache.bytes_per_token is None:
        return _room_for_the_unknown(room, free, least, student)
    records = cache.tokens_left * cache.bytes_per_token
    assert asked.cache_settings is not None
    shard = min(records, MAX_SHARD_BYTES, asked.cache_settings.shard_positions * cache.bytes_per_token)
    checkpoints = f"{format_bytes(student)} of checkpoints and model"
    if unknown := asked.student is not None and asked.student.size is None:
        checkpoints = "the checkpoints and the model of the training, left out here: the student's size is not known"
    basis = "as sealed so far" if cache.measured else "as measured with a weak teacher"
    needed = (
        f"about {format_bytes(records + student)}: {format_bytes(records)} of cache ({cache.tokens_left:,} tokens, "
        f"{cache.bytes_per_token:,.0f} bytes each, {basis}) and {checkpoints}"
    )
    if room is not None and room < shard + least:
        expected = f"{format_bytes(shard + least)} for a shard and a checkpoint; in the end {needed}"
        return Check("disk", "fault", free, expected, _MORE_ROOM)
    if room is not None and room < records + student:
        return Check("disk", "note", free, needed, _smaller_cache(cache, room - student, asked.validation_fraction))
    if unknown:
        return Check("disk", "note", free, needed, "ask again once the student is here")
    return Check("disk", "note" if room is None else "ok", f"{free}, for {needed}")


def _room_for_the_unknown(room: int | None, free: str, least: float, student: float) -> Check:
    """The same where nobody knows what the cache will take."""
    if room is not None and room < least:
        expected = f"{format_bytes(least)} for a checkpoint of the training alone"
        return Check("disk", "fault", free, expected, _MORE_ROOM)
    training = f", the training up to {format_bytes(student)}" if student else ""
    gigabytes = f" --gb {room / 1e9:.3g}" if room else ""
    found = f"{free}; what the cache will take is not known{training}"
    return Check("disk", "note", found, fix=f"sad-pipeline estimate -c CONFIG{gigabytes} measures it")


def _smaller_cache(cache: AskedCache, room: float, validation_fraction: float) -> str:
    """What to do where the whole does not fit: less text, or parts of it in several sessions."""
    assert cache.bytes_per_token is not None
    roots = "bring finished parts to later sessions, as cache.roots and train.roots"
    tokens = int(int(room / cache.bytes_per_token) / (1 + validation_fraction))  # data.max_tokens counts the others
    return roots if cache.planned or tokens < 1 else f"--set data.max_tokens={tokens}, or {roots}"


def _found(name: str, found: Found, more: str = "") -> Check:
    if not found.problem:
        return Check(name, "ok", f"{found.where}{more}")
    where = f"{found.where}: " if found.where and not found.problem.startswith(found.where) else ""
    return Check(name, "fault", f"{where}{found.problem}", fix=found.fix)
