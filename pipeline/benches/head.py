"""The distillation loss beside what it replaces: in time, and in memory.

Times are medians over alternating rounds, ratios of the same round. Memory is the most that forward and backward take
beyond their inputs, gradients included (`peak.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from statistics import median

import torch

from pipeline.benches.head_cases import (
    HeadCase,
    HeadSizes,
    has_linear_ce,
    kd_side,
    linear_ce,
    linear_ce_auto,
    ours,
    ours_by_default,
    plain_ce,
    whole_sampled_tail,
)
from pipeline.benches.peak import peak_extra_bytes
from pipeline.benches.results import Result, measured
from pipeline.benches.rounds import alternate, median_ratio
from pipeline.console import say, warn_once
from pipeline.machine import host_memory
from pipeline.models.device import choose_dtype

TIME_VS_CE_GOAL = {"cpu": 1.25, "cuda": 1.1}
MEMORY_VS_WHOLE_GOAL, MEMORY_GROWTH_GOAL = 1 / 8, 1.1
KD_SPEEDUP_GOAL, KD_MEMORY_GOAL = 96, 141
_CASES = "pipeline.benches.head_cases"
_WHOLE_BUFFERS = 8  # [N, V] in float32, at once, at the worst moment of the whole-logits side
_Side = Callable[[HeadCase], torch.Tensor]
_OUR_SIDES: dict[str, _Side] = {
    "bucket": ours("bucket", 2.0),
    "sampled_tail": ours("sampled_tail", 2.0),
    "tau1": ours("sampled_tail", 1.0),
    "subset": ours("subset", 2.0),
}


def bench_head(sizes: HeadSizes, device: torch.device, rounds: int) -> list[Result]:
    """Every figure of the head; those that need whole logits are left out where these do not fit into memory."""
    say(f"bench head: {sizes.positions:,} positions of {sizes.vocab_size:,} ids, {rounds} rounds a side")
    whole_fits = _whole_fits(sizes, device)
    results = _times(HeadCase.random(sizes, device, choose_dtype("auto", device)), rounds, whole_fits)
    if device.type == "cuda":
        results += _times_by_dtype(HeadCase.random(sizes, device), rounds)
    results += _memory(sizes, device, whole_fits)
    return results + (_distillation_alone(sizes, device, rounds) if whole_fits else [])


def _times(case: HeadCase, rounds: int, whole_fits: bool) -> list[Result]:
    """Sides that take about as long beside each other in many rounds; those that take several times as long in few."""
    device = case.hidden_ND.device
    own: dict[str, _Side] = {**_OUR_SIDES, "default": ours_by_default(device)}
    near, far = {"ce": plain_ce, **own}, {"sampled_tail": own["sampled_tail"]}
    if has_linear_ce():
        near["linear_ce"], far["linear_ce_auto"] = linear_ce, linear_ce_auto
    else:
        warn_once(
            f"torch {torch.__version__} has no linear_cross_entropy, 2.13 has: head.time_vs_linear_ce is left out"
        )
    if whole_fits:
        far["whole"] = whole_sampled_tail(2.0)
        far["unchunked"] = ours("sampled_tail", 2.0, chunk_positions=len(case.hidden_ND))
    seconds = alternate({name: case.side(loss) for name, loss in near.items()}, rounds)
    slow = alternate({name: case.side(loss) for name, loss in far.items()}, -(-rounds // 3)) if len(far) > 1 else {}
    ratios, goal = {name: median_ratio(seconds[name], seconds["ce"]) for name in own}, TIME_VS_CE_GOAL[device.type]
    slower = max(("bucket", "sampled_tail"), key=ratios.__getitem__)
    results = [
        measured("head.time_vs_ce", ratios[slower], at_most=goal),
        *(measured(f"head.time_vs_ce.{name}", ratio) for name, ratio in ratios.items() if name != "default"),
        measured("head.time_vs_ce.default", ratios["default"], at_most=goal),
    ]
    if "whole" in slow:
        results.append(measured("head.time_vs_whole", median_ratio(slow["sampled_tail"], slow["whole"]), at_most=1.0))
        results.append(measured("head.time_vs_whole.unchunked", median_ratio(slow["unchunked"], slow["whole"])))
    if "linear_ce" in seconds:
        ratio = median_ratio(seconds[slower], seconds["linear_ce"])
        auto = median_ratio(slow["sampled_tail"], slow["linear_ce_auto"])
        results.append(measured("head.time_vs_linear_ce", ratio, below=1.0))
        results.append(measured("head.time_vs_linear_ce.auto", auto))
    timed = slow | seconds
    return results + [measured(f"head.ms.{name}", 1e3 * median(each), "ms") for name, each in timed.items()]


def _times_by_dtype(case: HeadCase, rounds: int) -> list[Result]:
    """On a card: half-precision weights, and float32 weights under autocast, against plain CE in the same dtype."""
    results = []
    for dtype in (torch.float16, torch.bfloat16):
        if dtype == torch.bfloat16 and choose_dtype("auto", case.hidden_ND.device) != dtype:
            continue  # emulated there, and slower than float32
        name = str(dtype).removeprefix("torch.")
        for label, cast in ((name, case.cast(dtype)), (f"autocast_{name}", case.cast(torch.float32, dtype))):
            sides = {"ours": cast.side(ours("sampled_tail", 2.0)), "ce": cast.side(plain_ce)}
            seconds = alternate(sides, rounds)
            results.append(measured(f"head.time_vs_ce.{label}", median_ratio(seconds["ours"], seconds["ce"])))
            results += [measured(f"head.ms.{label}.{side}", 1e3 * median(s), "ms") for side, s in seconds.items()]
    return results


def _memory(sizes: HeadSizes, device: torch.device, whole_fits: bool) -> list[Result]:
    say("bench head: memory, in processes of their own")
    doubled = replace(sizes, positions=2 * sizes.positions)
    one, two = (
        peak_extra_bytes(_CASES, "memory_of_ours", sizes=asdict(each), device=device.type) for each in (sizes, doubled)
    )
    hidden_bytes = 4 * sizes.positions * sizes.width
    growth = (two - 2 * hidden_bytes) / (one - hidden_bytes)
    results = [
        measured("head.memory_growth", growth, at_most=MEMORY_GROWTH_GOAL),
        measured("head.memory_mb.ours", one / 1e6, "MB"),
    ]
    if whole_fits:
        whole = peak_extra_bytes(_CASES, "memory_of_whole", sizes=asdict(sizes), device=device.type)
        results.insert(0, measured("head.memory_vs_whole", one / whole, at_most=MEMORY_VS_WHOLE_GOAL))
        results.append(measured("head.memory_mb.whole", whole / 1e6, "MB"))
    return results


def _distillation_alone(sizes: HeadSizes, device: torch.device, rounds: int) -> list[Result]:
    """Subset distillation on gathered logits [N, K] against distillation on whole ones [N, V]."""
    say("bench head: distillation on K gathered logits against V")
    widths = {"subset": min(sizes.head_size, sizes.vocab_size), "full": sizes.vocab_size}
    seconds = alternate({name: kd_side(sizes.positions, width, device) for name, width in widths.items()}, rounds)
    extra = {
        name: peak_extra_bytes(_CASES, "memory_of_kd", num_rows=sizes.positions, num_ids=width, device=device.type)
        for name, width in widths.items()
    }
    return [
        measured("kd.speedup_vs_full", median_ratio(seconds["full"], seconds["subset"]), at_least=KD_SPEEDUP_GOAL),
        measured("kd.memory_vs_full", extra["full"] / max(1, extra["subset"]), at_least=KD_MEMORY_GOAL),
        *(measured(f"kd.ms.{name}", 1e3 * median(each), "ms") for name, each in seconds.items()),
        *(measured(f"kd.memory_mb.{name}", each / 1e6, "MB") for name, each in extra.items()),
    ]


def _whole_fits(sizes: HeadSizes, device: torch.device) -> bool:
    """Whether whole logits and what autograd keeps of them fit beside everything else."""
    needed = _WHOLE_BUFFERS * 4 * sizes.positions * sizes.vocab_size
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else host_memory().free_bytes
    if needed > free:
        warn_once(
            f"whole logits need about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: figures against them are "
            "left out; fewer --positions bring them back"
        )
    return needed <= free
