"""Studies: one with the figures that a real one left, rounded, and one with many arms near each other."""

from __future__ import annotations

from dataclasses import replace

from pipeline.benches.quality.arms import arms_of
from pipeline.evaluation.study.findings import Finding, Measured
from pipeline.evaluation.study.results import Setting, StudyResult

ARMS = {arm.name: arm for arm in arms_of(32, 4096)}
SETTING = Setting(
    text="stdlib",
    teacher=None,
    teacher_parameters=1_114_000,
    teacher_ce_nats=4.1,
    student="llama",
    student_parameters=355_000,
    beginning_steps=0,
    steps=300,
    vocab_size=4096,
    head_size=32,
    num_sequences=128,
    num_positions=32_640,
)
# Arm, rate, whether at an edge, bytes a token, degrees and norm at full's student, cross-entropies, KLs of five seeds.
_REAL = (
    ("labels", 0.002828, True, None, (40.78, 1.46),
     (5.3943, 5.3715, 5.4880, 5.4684, 5.3880), (1.3879, 1.4348, 1.4572, 1.4352, 1.3920)),
    ("full", 0.004, False, None, None,
     (5.0008, 4.8825, 4.8767, 4.9029, 4.9926), (0.9509, 0.8167, 0.8030, 0.8318, 0.9335)),
    ("default", 0.004, False, 85.76, (6.11, 1.01),
     (4.8883, 4.8948, 4.8869, 4.9923, 5.0381), (0.8247, 0.8431, 0.8227, 0.9274, 0.9793)),
    ("bucket", 0.002828, True, 85.76, (37.41, 1.01),
     (5.1939, 5.1220, 5.1868, 5.2052, 5.2260), (1.0971, 1.0277, 1.0638, 1.0713, 1.1124)),
    ("subset", 0.005657, True, 85.76, (59.27, 1.83),
     (5.4338, 5.4475, 5.5127, 5.5102, 5.4670), (1.3927, 1.4383, 1.4429, 1.4361, 1.4248)),
    ("compact", 0.002828, True, 56.53, (6.81, 1.01),
     (5.0886, 4.9270, 4.9637, 5.0555, 4.9941), (1.0300, 0.8651, 0.8926, 0.9803, 0.9306)),
    ("sampled", 0.004, False, 32.78, (6.67, 1.01),
     (4.9977, 4.8779, 5.0207, 4.9575, 5.0333), (0.9471, 0.8291, 0.9625, 0.8967, 0.9776)),
)  # fmt: skip
# Arm -> bytes a token, and the KL it is above the default's; spots as near each other as a long study's are.
_MORE = {
    "k2of4096": (31.2, 0.16), "k4of4096": (34.0, 0.11), "k8of4096": (44.1, 0.06), "k16of4096": (58.9, 0.02),
    "tau1_5": (85.76, 0.01), "tau3to2": (85.76, 0.35), "router_trust": (85.76, -0.02), "ema": (85.76, 0.05),
}  # fmt: skip


def real_study() -> StudyResult:
    """Seven arms, five seeds, 300 steps."""
    findings = {}
    for name, rate, edge, size, at_full, ces, kls in _REAL:
        candidate = "ce0" if name == "full" else ""
        pairs = zip(ces, kls, strict=True)
        findings[name] = Finding(
            arm=name,
            candidate=candidate,
            learning_rate=rate,
            at_an_edge=edge,
            students={seed: Measured(*pair) for seed, pair in enumerate(pairs)},
            bytes_per_token=size,
            gradients={"full": at_full} if at_full else {},
            changes=ARMS[name].changes_of(candidate),
        )
    return StudyResult("300 steps, V = 4,096, K = 32", SETTING, findings)


def crowded_study() -> StudyResult:
    """Fifteen arms, seven of them with a cache of their own, one of these ten times as large."""
    study = real_study()
    findings, default = dict(study.findings), study.findings["default"]
    for name, (size, worse) in _MORE.items():
        students = {
            seed: Measured(default.students[seed].ce_nats + worse, default.students[seed].kl_nats + worse)
            for seed in range(3)
        }
        changes = ARMS[name].changes_of("")
        findings[name] = replace(default, arm=name, students=students, bytes_per_token=size, changes=changes)
    findings["lossless"] = replace(default, arm="lossless", bytes_per_token=308.0, changes={"cache.head_size": 256})
    setting = replace(SETTING, steps=1200, beginning_steps=900)
    return StudyResult("1,200 steps, V = 4,096, K = 32", setting, findings)


def study_of_one_seed() -> StudyResult:
    """No interval anywhere, and no default."""
    study = real_study()
    names = ("labels", "full", "compact", "bucket")
    return StudyResult(
        study.title,
        study.setting,
        {name: replace(study.findings[name], students={0: study.findings[name].students[0]}) for name in names},
    )
