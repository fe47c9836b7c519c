"""What the `train` section of a config may say."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

import pydantic

from pipeline.config import Place, Section, free, schedule

Beta = Annotated[float, pydantic.Field(ge=0, lt=1)]
Objective = Literal["sampled_tail", "bucket", "subset", "reverse_kl", "jsd", "ranked"]
HEAD_ONLY: tuple[Objective, ...] = ("subset", "ranked")
"""Objectives that never look at the tail, the teacher's or the student's"""
SAMPLED_OBJECTIVES: tuple[Objective, ...] = ("sampled_tail", "bucket")
"""What records of the kind `sampled` can be used for. `bucket` is Σ p̂·log(p̂/q), p̂ the shares of the draws: Random-
Sampling KD. `sampled_tail` takes the label's probability from the record, as that is rounded, and from the draws the
rest: the same on average but for that rounding, with less noise"""
RouterKind = Literal["uniform", "gap", "trust", "learned"]
Part = Literal["ce", "kd", "rank"]
"""Parts of the loss: labels, the objective, the likelihood of the teacher's order"""
WITHOUT_TEACHER: dict[str, Any] = {
    "ce_weight": 1.0,
    "kd_weight": 0.0,
    "rank_weight": 0.0,
    "ce_weight_end": None,
    "kd_weight_end": None,
    "rank_weight_end": None,
    "balance": False,
    "router": "auto",
}
"""What turns any training into one on labels only"""


DataOrderKind = Literal["shuffled", "easy_first", "hard_first", "weighted"]
Difficulty = Literal["entropy", "surprise"]
_OF_ORDERS: dict[str, tuple[DataOrderKind, ...]] = {
    "difficulty": ("easy_first", "hard_first", "weighted"),
    "curriculum_levels": ("easy_first", "hard_first"),
    "curriculum_epochs": ("easy_first", "hard_first"),
    "hard_share": ("weighted",),
}
"""Which orders of the data each key of a curriculum is for."""
_LOWEST, _HIGHEST = 1.0, 4.0  # temperatures that records can be softened to


class TemperatureSettings(Section):
    """Temperature over training, from the first step to the last; a plain number in its place is a constant one."""

    stood_for_by_a_number: ClassVar[tuple[str, ...]] = ("start", "end")

    start: float = schedule(
        1.2, "temperature at the first step (of a cache of the kind sampled 1)", ge=_LOWEST, le=_HIGHEST
    )
    end: float = schedule(1.2, "temperature at the last step; left out: as at the first", ge=_LOWEST, le=_HIGHEST)
    shape: Literal["linear", "cosine", "constant"] = schedule(
        "linear", "how it moves between the two; constant: it does not, and end may be left out"
    )

    @pydantic.model_validator(mode="before")
    @classmethod
    def _stays_where_no_end_is_given(cls, values: Any) -> Any:
        start = values.get("start") if isinstance(values, dict) else None
        is_one = isinstance(start, int | float) and _LOWEST <= start <= _HIGHEST  # else it is refused by itself
        return {"end": start} | values if is_one else values

    @pydantic.model_validator(mode="after")
    def _stays_where_it_is_constant(self) -> Self:
        if self.shape == "constant" and self.start != self.end:
            raise ValueError(
                f"the shape is constant and the temperature goes from {self.start:g} to {self.end:g}; leave end out, "
                "or take the shape linear or cosine"
            )
        return self


class TrainSettings(Section):
    """How the student learns."""

    steps: int | None = schedule(None, "optimizer steps; or give epochs", ge=1)
    epochs: float | None = schedule(None, "passes over the training sequences; or give steps", gt=0)
    batch_size: int = schedule(8, "sequences a forward and backward pass", ge=1)
    accumulation: int = schedule(1, "passes an optimizer step", ge=1)
    objective: Objective = schedule(
        "sampled_tail",
        "what is minimised beside the labels' cross-entropy: KL to the teacher with its tail estimated from draws "
        "(sampled_tail), with the tail as one outcome (bucket), within the head (subset); the KL the other way round "
        "(reverse_kl); Jensen-Shannon (jsd); or the likelihood of the teacher's order of the head (ranked)",
    )
    ce_weight: float = schedule(0.1, "weight of the labels' cross-entropy", ge=0)
    kd_weight: float = schedule(0.9, "weight of the distillation objective; 0 trains on labels only", ge=0)
    rank_weight: float = schedule(
        0.0, "weight of the likelihood of the teacher's order of the head, at temperature 1, beside the objective", ge=0
    )
    ce_weight_end: float | None = schedule(None, "ce_weight at the last step; none: as at the first", ge=0)
    kd_weight_end: float | None = schedule(None, "kd_weight at the last step; none: as at the first", ge=0)
    rank_weight_end: float | None = schedule(None, "rank_weight at the last step; none: as at the first", ge=0)
    weight_shape: Literal["linear", "cosine"] = schedule("linear", "how the three weights move between the two")
    balance: bool = schedule(
        True, "keep each part's share of the loss at its weight, whatever its magnitude in earlier steps"
    )
    balance_decay: float = schedule(0.99, "of the running magnitudes behind balance", ge=0, lt=1)
    router: Literal["auto", RouterKind] = schedule(
        "auto",
        "what each position is to learn: all parts alike (uniform); more where the student lags behind the teacher "
        "(gap); the teacher where it is right or close, the labels where it is wrong (trust); or as a small gate "
        "learns to choose (learned). auto: learned where more than one part has a weight, else uniform",
    )
    temperature: TemperatureSettings = TemperatureSettings()
    learning_rate: float = schedule(1e-3, "peak of the schedule", gt=0)
    warmup_steps: int = schedule(50, "steps of linear warm-up", ge=0)
    final_learning_rate_ratio: float = schedule(0.1, "where the cosine ends, as a share of the peak", ge=0, le=1)
    weight_decay: float = schedule(0.1, "on matrices only", ge=0)
    adam_betas: tuple[Beta, Beta] = schedule((0.9, 0.95), "of AdamW")
    adam_epsilon: float = schedule(1e-8, "of AdamW: keeps its division finite", gt=0)
    clip_norm: float = schedule(1.0, "largest gradient norm; 0 does not clip", ge=0)
    ema_decay: float = schedule(
        0.0,
        "of an average of the weights, such as 0.999; less in early steps, (1 + s)/(10 + s) after step s; 0 keeps none",
        ge=0,
        lt=1,
    )
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = schedule("auto", "of autocast; weights stay float32")
    gradient_checkpointing: bool = free(False, "recompute activations in backward: less memory, a third slower")
    chunk_positions: int = free(512, "positions that go through the output matrix at once, at most", ge=1)
    window_shards: int = schedule(4, "shards whose sequences are shuffled together", ge=1)
    data_order: DataOrderKind = schedule(
        "shuffled",
        "how sequences come: shuffled; in levels of what the teacher found difficult (easy_first, hard_first); or "
        "difficult ones more often (weighted)",
    )
    difficulty: Difficulty = schedule("entropy", "mean over a sequence of the teacher's entropy, or of -log p(label)")
    curriculum_levels: int = schedule(8, "easy_first, hard_first: levels, one after another", ge=2, le=64)
    curriculum_epochs: int = schedule(1, "easy_first, hard_first: epochs in levels; later ones are shuffled", ge=1)
    hard_share: float = schedule(0.5, "weighted: share given out by difficulty, the rest evenly", gt=0, lt=1)
    seed: int = schedule(0, "of the data order and of dropout", ge=0)
    evaluate_every: int = schedule(100, "steps between validations", ge=1)
    validation_sequences: int = schedule(64, "validation sequences used while training", ge=1)
    patience: int | None = schedule(None, "evaluations without improvement before training stops; null: never", ge=1)
    min_delta: float = schedule(0.0, "nats of cross-entropy that count as an improvement", ge=0)
    max_skipped_in_a_row: int = free(20, "steps in a row that are not finite before training stops", ge=1)
    memory_guard: float = free(
        0.85,
        "share of a card's memory above which the head's chunk, then the micro-batch, is halved; 0: none",
        ge=0,
        le=1,
    )
    ema_device: Literal["auto", "host"] = free("auto", "where an average lives: beside the weights, or in host memory")
    tensorboard: bool = free(False, "write student/tensorboard too; needs the extra tensorboard")
    checkpoint_every: int = free(200, "steps between checkpoints", ge=1)
    roots: list[Place] = free([], "further folders with checkpoints of this training, read-only, searched at any depth")
    workers: int | None = free(
        None,
        "processes that share each step, each with the student in memory; absent: one a card, on the CPU one",
        ge=1,
    )
    log_every: int = free(10, "steps between lines of metrics.jsonl", ge=1)

    @pydantic.model_validator(mode="after")
    def _has_an_end_and_a_goal(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            found = "neither" if self.steps is None else "both"
            raise ValueError(f"give either train.steps or train.epochs, and null for the other; found {found}")
        for weights, when in ((self.weights_at_start, "first"), (self.weights_at_end, "last")):
            if not any(weights.values()):
                raise ValueError(
                    f"train.ce_weight, train.kd_weight and train.rank_weight are all 0 at the {when} step: there is "
                    "nothing to learn. Give one of them, or its _end, a weight"
                )
        return self

    @pydantic.model_validator(mode="after")
    def _curriculum_fits_the_order(self) -> Self:
        """What has no meaning for an order must not look as if it had one."""
        for name, orders in _OF_ORDERS.items():
            if self.data_order not in orders and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"train.{name} has no meaning for train.data_order {self.data_order}, only for "
                    f"{' and '.join(orders)}; leave it out, or choose one of these"
                )
        return self

    @pydantic.model_validator(mode="after")
    def _has_what_a_router_needs(self) -> Self:
        if self.router_kind != "uniform" and not self.needs_teacher:
            raise ValueError(
                f"train.router is {self.router}, and this trains on labels only (train.kd_weight and train.rank_weight "
                "are 0): the teacher is never read. Give the teacher a weight, or set train.router to uniform"
            )
        if self.router_kind == "learned" and len(self.parts) < 2:
            raise ValueError(
                f"train.router learned chooses among parts, and {self.parts[0]} alone has a weight. Give another one a "
                "weight, or set train.router to uniform or gap"
            )
        return self

    @property
    def router_kind(self) -> RouterKind:
        """The router of this training; `auto` decided by the parts there are to choose among."""
        if self.router != "auto":
            return self.router
        return "learned" if len(self.parts) > 1 else "uniform"

    @property
    def idle(self) -> dict[str, str]:
        """Keys that are set and do nothing -> what would have to be on for them. Not refused: whoever turns something
        off for one training need not look for what else speaks of it."""
        switches = {"min_delta": "patience", "balance_decay": "balance", "ema_device": "ema_decay"}
        default = {name: type(self).model_fields[name].default for name in switches}
        return {
            name: switch
            for name, switch in switches.items()
            if not getattr(self, switch) and getattr(self, name) != default[name]
        }

    @property
    def weights_at_start(self) -> dict[Part, float]:
        """Weights of the parts at the first step."""
        return {"ce": self.ce_weight, "kd": self.kd_weight, "rank": self.rank_weight}

    @property
    def weights_at_end(self) -> dict[Part, float]:
        """Weights of the parts at the last step."""
        ends: dict[Part, float | None] = {
            "ce": self.ce_weight_end,
            "kd": self.kd_weight_end,
            "rank": self.rank_weight_end,
        }
        return {part: start if (end := ends[part]) is None else end for part, start in self.weights_at_start.items()}

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the loss that have a weight at some step."""
        starts, ends = self.weights_at_start, self.weights_at_end
        return tuple(part for part in starts if starts[part] > 0 or ends[part] > 0)

    @property
    def needs_teacher(self) -> bool:
        """Whether the teacher's records are read: anything but labels has a weight at some step."""
        return any(part != "ce" for part in self.parts)
