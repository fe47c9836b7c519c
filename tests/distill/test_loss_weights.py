"""The weights of each step: schedule, balance and routes, from earlier steps alone; and what settings may not say."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.cache import TeacherCache
from pipeline.distill.batching.batches import Batch, load_batch
from pipeline.distill.guards.finite_guard import Suspects
from pipeline.distill.learner import Learner
from pipeline.distill.loss.routing import PARTS
from pipeline.distill.settings import TrainSettings
from pipeline.distill.step_result import StepResult
from pipeline.distill.weighting.gate import Gate
from pipeline.distill.weighting.loss_weights import ROUTER_DECAY, LossWeights, spread_of
from pipeline.errors import ConfigError
from pipeline.models import CausalModel
from stages.config import load_run_config
from tests import tiny
from tests.evaluation.caches import make_cache

CPU = torch.device("cpu")
ROUTERS = ["gap", "trust", "learned"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> TeacherCache:
    folder: Path = tmp_path_factory.mktemp("weights")
    return make_cache(folder, CausalModel(tiny.make_model("llama", seed=9), tiny.VOCAB_SIZE))


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(**({"steps": 10, "warmup_steps": 0, "rank_weight": 0.2, "balance": False} | changes))


def make_learner(**changes: Any) -> Learner:
    causal = CausalModel(tiny.make_model("llama"), tiny.VOCAB_SIZE)
    with torch.no_grad():
        causal.model.lm_head.weight.mul_(20)  # far from the teacher: two random models hardly differ
    return Learner(causal, settings(**changes), 10, torch.float32)


def micro_batches(cache: TeacherCache, step: int = 0) -> list[Batch]:
    return [load_batch(cache, np.array([2 * step + row]), CPU, with_records=True) for row in range(2)]


def learn(learner: Learner, cache: TeacherCache, steps: int) -> list[StepResult]:
    found = []
    for step in range(steps):
        batches = micro_batches(cache, step)
        found.append(learner.learn(step, batches, sum(batch.num_scored for batch in batches)))
    return found


# ------------------------------------------------------------------ schedule


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_weights_move_from_their_start_to_their_end(shape: str) -> None:
    weights = LossWeights(settings(ce_weight=1.0, ce_weight_end=0.0, rank_weight=0.0, rank_weight_end=0.6,
                                   weight_shape=shape), 11)  # fmt: skip
    steps = [weights.at(step) for step in range(11)]
    assert [(s.ce, s.kd, s.rank) for s in (steps[0], steps[-1])] == [(1.0, 0.9, 0.0), (0.0, 0.9, 0.6)]
    assert (steps[5].ce, steps[5].rank) == (pytest.approx(0.5), pytest.approx(0.3))
    assert (steps[2].ce == pytest.approx(0.8)) == (shape == "linear")
    assert weights.at(5) == steps[5]  # of the step alone


def test_scheduled_weights_are_what_a_step_learns_with(cache: TeacherCache) -> None:
    results = learn(make_learner(kd_weight=0.0, kd_weight_end=0.9, ce_weight=1.0, ce_weight_end=0.1), cache, 3)
    assert results[0].kd is None
    assert results[1].kd is not None
    for step, result in enumerate(results):
        kd_weight = 0.9 * step / 9
        kd = result.temperature**2 * (result.kd or 0.0)
        expected = (1.0 - 0.1 * step) * result.ce + kd_weight * kd + 0.2 * result.rank
        assert result.kd_weight == pytest.approx(kd_weight)
        assert result.loss == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------ balance


def test_balance_is_from_earlier_steps(cache: TeacherCache) -> None:
    """Step 0 as configured; step 1 by the magnitudes of step 0, with KD's τ²; shares as configured."""
    learner = make_learner(balance=True, objective="bucket", temperature={"start": 1.5, "end": 1.5})
    first, second = learn(learner, cache, 2)
    assert (first.ce_weight, first.kd_weight, first.rank_weight) == (0.1, 0.9, 0.2)
    sizes = {"ce": first.ce, "kd": 2.25 * first.kd, "rank": first.rank}
    shares = {part: getattr(second, f"{part}_weight") * size for part, size in sizes.items()}
    total = 0.1 * sizes["ce"] + 0.9 * sizes["kd"] + 0.2 * sizes["rank"]
    assert sum(shares.values()) == pytest.approx(total)
    assert shares["kd"] / shares["ce"] == pytest.approx(9.0)
    assert shares["rank"] / shares["ce"] == pytest.approx(2.0)


def test_balance_counts_what_a_router_lets_through(cache: TeacherCache) -> None:
    learner = make_learner(balance=True, router="trust")
    batches = micro_batches(cache)
    weights, temperature = learner.loss_weights.at(0), learner.settings.temperature.start
    routed = dict.fromkeys(PARTS, 0.0)
    for batch in batches:
        parts = learner._backward(batch, temperature, weights, 1, Suspects())
        losses = torch.stack([parts.ce_N, temperature**2 * parts.kd_N, parts.rank_N], dim=1)
        for part, total in zip(PARTS, (losses * parts.routes_N3).sum(0).tolist(), strict=True):
            routed[part] += total
    learner.optimizer.zero_grad()
    num_scored = sum(batch.num_scored for batch in batches)
    learner.learn(0, batches, num_scored)
    found = {part: learner.loss_weights.magnitudes.get(part) for part in PARTS}
    assert found == pytest.approx({part: total / num_scored for part, total in routed.items()}, rel=1e-5)


# ------------------------------------------------------------------ routes


@pytest.mark.parametrize("router", ROUTERS)
def test_routes_are_normalised_by_what_earlier_steps_gave(
    cache: TeacherCache, router: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 0 by 1; a later one by the mean of what the router itself gave in the steps before it."""
    learner, given = make_learner(router=router), list[torch.Tensor]()
    kind = type(learner.loss_weights.router)
    route = kind.route

    def noted(self: Any, signals_n6: torch.Tensor) -> torch.Tensor:
        given.append(route(self, signals_n6))
        return given[-1]

    monkeypatch.setattr(kind, "route", noted)
    before: list[torch.Tensor] = []
    for step in range(4):
        given.clear()
        batches = micro_batches(cache, step)
        routes = learner.learn(step, batches, sum(batch.num_scored for batch in batches)).routes
        raw_N3 = torch.cat([each.detach() for each in given]).double()
        assert raw_N3.min() >= 0
        shares = torch.tensor([ROUTER_DECAY**age for age in reversed(range(step))]).double()
        means_3 = (shares @ torch.stack(before)) / shares.sum() if before else torch.ones(3)
        for k, part in enumerate(PARTS):
            column_N = raw_N3[:, k] / means_3[k]
            assert routes[f"route_{part}_mean"] == pytest.approx(column_N.mean().item(), rel=1e-5)
            assert routes[f"route_{part}_p90"] == pytest.approx(np.quantile(column_N, 0.9, method="nearest"), rel=1e-5)
        before.append(raw_N3.mean(dim=0))


def test_means_of_routes_are_of_what_the_router_gave() -> None:
    """Not of what was left of it after the means of earlier steps were taken out."""
    weights = LossWeights(settings(router="trust"), 10)
    for mean, given in ((1.0, 0.5), (0.5, 0.6), ((0.99 * 0.5 + 0.6) / 1.99, 0.4)):
        router = weights.at(0).router
        assert router is not None
        assert router.means[0] == pytest.approx(mean)
        weights.observe({"ce": 1.0, "route_ce_mean": given / mean}, 1, 1.0)


def test_the_gate_studies_losses_by_their_means_of_earlier_steps(
    cache: TeacherCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    studied = []
    monkeypatch.setattr(Gate, "study", lambda self, signals, losses, magnitudes: studied.append(magnitudes))
    results = learn(make_learner(router="learned"), cache, 2)
    assert studied == [pytest.approx({part: getattr(results[0], part) for part in PARTS})] * 2, "of the second step"


def test_spread_is_of_positions() -> None:
    routes_n3 = torch.randn(101, 3, generator=torch.Generator().manual_seed(0))
    found = spread_of(routes_n3)
    for k, part in enumerate(PARTS):
        assert found[f"route_{part}_mean"] == pytest.approx(routes_n3[:, k].mean().item(), abs=1e-6)
        for name, q in (("p10", 0.1), ("p50", 0.5), ("p90", 0.9)):
            assert found[f"route_{part}_{name}"] == pytest.approx(np.quantile(routes_n3[:, k].numpy(), q))


def test_uniform_is_no_router_and_logs_nothing(cache: TeacherCache) -> None:
    learner = make_learner(router="uniform")
    [result] = learn(learner, cache, 1)
    assert learner.loss_weights.at(0).router is None
    assert result.routes is None
    assert learner.loss_weights.tensors() == {}


@pytest.mark.parametrize("changes", [{"router": router} for router in ROUTERS] + [{"balance": True}], ids=str)
def test_a_skipped_step_is_not_observed(cache: TeacherCache, changes: dict[str, Any]) -> None:
    learner = make_learner(**changes)
    learn(learner, cache, 2)
    before = json.dumps(learner.loss_weights.state())
    tensors = {name: tensor.clone() for name, tensor in learner.loss_weights.tensors().items()}
    for batch in (batches := micro_batches(cache, 2)):
        batch.records.tail_NR[:] = torch.nan
    assert learner.learn(2, batches, sum(batch.num_scored for batch in batches)).skipped
    assert json.dumps(learner.loss_weights.state()) == before
    learner.loss_weights.at(3)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in learner.loss_weights.tensors().items())
    assert all(parameter.grad is None for parameter in getattr(learner.loss_weights.router, "parameters", list)())


@pytest.mark.parametrize("router", ROUTERS)
def test_a_step_asks_the_device_once(cache: TeacherCache, router: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batches = make_learner(router=router, balance=True), micro_batches(cache)
    learn(learner, cache, 2)  # what asks once, at the first use of a model, and a gate that has magnitudes
    asked: list[str] = []
    for name in ("tolist", "item", "__float__", "__bool__", "__int__", "nonzero"):
        real = getattr(torch.Tensor, name)

        def counted(self: torch.Tensor, *args: Any, _name: str = name, _real: Any = real, **kwargs: Any) -> Any:
            files = [frame.filename for frame in traceback.extract_stack()]
            if not any("/transformers/" in file for file in files):  # what its forward pass asks is its own
                asked.append(_name)
            return _real(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    learner.learn(2, batches, sum(batch.num_scored for batch in batches))
    assert asked == ["tolist"]


def test_another_router_begins_afresh() -> None:
    """Forked from a training with another router: magnitudes go on, what that router learned does not."""
    before, after = LossWeights(settings(router="gap"), 10), LossWeights(settings(router="trust"), 10)
    before.observe({"ce": 8.0, "kd": 4.0, "route_ce_mean": 0.5, "route_kd_mean": 0.5}, 2, 1.0)
    after.load(json.loads(json.dumps(before.state())), {})
    assert after.magnitudes.get("ce") == pytest.approx(4.0)
    assert "ce" not in after.routes
    other = LossWeights(settings(router="learned", rank_weight=0.0), 10)
    three = LossWeights(settings(router="learned"), 10)
    other.load(json.loads(json.dumps(three.state())), three.tensors())
    assert torch.equal(other.tensors()["bias_P"], torch.zeros(2))
    same = LossWeights(settings(router="gap"), 10)
    same.load(json.loads(json.dumps(before.state())), {})
    assert same.routes.get("kd") == pytest.approx(0.5)


def test_another_objective_is_sized_afresh() -> None:
    """Forked to another objective: its nats are others, so balance and gate wait for the first of them."""
    before, after = LossWeights(settings(balance=True), 10), LossWeights(settings(balance=True, objective="subset"), 10)
    before.observe({"ce": 8.0, "kd": 4.0, "rank": 2.0}, 2, 1.0)
    state = json.loads(json.dumps(before.state()))
    after.load(state, before.tensors())
    assert "kd" not in after.magnitudes
    assert "kd" not in after.losses
    assert after.magnitudes.get("ce") == before.magnitudes.get("ce")
    assert after.at(5).kd == 0.9
    del state["objective"]  # a checkpoint of before it was kept: of the same one, as far as anybody knows
    after.load(state, before.tensors())
    assert after.magnitudes.get("kd") == 2.0


# ------------------------------------------------------------------ what settings may not say


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("ce_weight=0", "kd_weight=0"), "are all 0 at the first step"),
        (("ce_weight=0", "kd_weight_end=0"), "are all 0 at the last step"),
        (("ce_weight=0.5", "kd_weight=0", "router=gap"), "router is gap, and this trains on labels only"),
        (("ce_weight=0", "kd_weight=1", "router=learned"), "chooses among parts, and kd alone has a weight"),
        (("rank_weight=-1",), r"train\.rank_weight"),
        (("router=best",), r"train\.router"),
        (("balance_decay=1",), r"train\.balance_decay"),
        (("temperature={start: 3, end: 2, shape: constant}",), "the shape is constant and the temperature goes from 3"),
    ],
)
def test_what_settings_may_not_say(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_run_config("demo", tuple(f"train.{override}" for override in overrides))


def test_what_settings_may_say() -> None:
    given = settings(ce_weight=0.0, kd_weight=0.0, ce_weight_end=1.0, kd_weight_end=0.0, rank_weight=1.0)
    assert given.parts == ("ce", "rank")
    assert given.needs_teacher
    assert not settings(ce_weight=1.0, kd_weight=0.0, rank_weight=0.0).needs_teacher
    constant = settings(temperature={"start": 3.0, "shape": "constant"}).temperature
    assert (constant.start, constant.end) == (3.0, 3.0)


def test_what_is_set_and_does_nothing_is_known() -> None:
    assert settings(balance_decay=0.9, min_delta=0.1).idle == {"balance_decay": "balance", "min_delta": "patience"}
    assert settings(balance_decay=0.9, min_delta=0.1, balance=True, patience=3).idle == settings().idle == {}


def test_a_step_that_begins_again_counts_its_positions_once(cache: TeacherCache) -> None:
    """Out of memory half-way: what was noted of the first try is not in the second."""
    once, twice = make_learner(router="learned"), make_learner(router="learned")
    for learner in (once, twice):
        learn(learner, cache, 2)
    [batch, _] = batches = micro_batches(cache, 2)
    for learner in (once, twice):
        weights = learner.loss_weights.at(2)
        if learner is twice:
            twice._backward(batch, 1.0, weights, 1, Suspects())
            twice.optimizer.zero_grad(set_to_none=True)
        suspects, _ = learner._accumulate(2, batches, 1.0, weights, 1)
        assert len(learner.loss_weights.figures()) == 15
        assert suspects.flags().sum() == 0
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(*(
        [learner.loss_weights.router.weight_PF, learner.loss_weights.router.bias_P] for learner in (once, twice)
    ), strict=True))  # fmt: skip
