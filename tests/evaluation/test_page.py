"""The page as an HTML reader sees it: well nested, self-contained, escaped, and honest about what is missing."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from pipeline.evaluation.headline import command
from pipeline.evaluation.history import Standing, TrainingHistory
from pipeline.evaluation.page import render_page
from tests.evaluation.stories import HOSTILE, make_history, make_result, make_row, make_story, partial_stories, rendered

_VOID = {"meta", "br", "hr"}


class Reader(HTMLParser):
    """Collects words, tags and ids; fails on tags that do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"<{tag} {name}>"
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href"):
                self.links.append(value or "")
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self._open = self._open[:-1] if tag not in _VOID else self._open

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words += data + " "


@pytest.fixture(scope="module")
def page() -> str:
    return rendered("whole")


def test_a_whole_run_has_every_part(page: str) -> None:
    reader = Reader(page)
    assert {"summary", "models", "training", "cache", "data", "samples", "study", "reproduce"} <= set(reader.ids)
    for title in (
        "Validation", "Validation, distance to the teacher", "Validation, agreement with the teacher",
        "Loss on the labels", "Loss to the teacher", "Agreement with the teacher", "Temperature",
        "Learning rate", "Gradient norm", "Gradient norm, clipped", "Gradient norm by kind of weight",
        "Effective tail draws", "Throughput", "Waiting for data",
        "Mass kept in the head", "Size by shard", "Length of documents", "Bytes against quality", "Ways of training",
    ):  # fmt: skip
        assert title in reader.words
    assert reader.tags.count("svg") == 20
    assert "Not in this report yet" not in reader.words


def test_the_headline_is_the_gain(page: str) -> None:
    words = Reader(page).words
    assert "0.250" in words
    assert "from 4.525 nats a token for labels only to 4.275 for student (EMA)" in words
    assert "That is 21% of the way from labels only to the teacher." in words


def test_the_headline_is_of_the_step_that_was_validated() -> None:
    """Not of the last one that was logged."""
    history = make_history()
    shorter = dataclasses.replace(history, validation=tuple(line for line in history.validation if line["step"] <= 250))
    words = Reader(render_page(make_story(evaluation=None, training=shorter))).words
    assert "The validation cross-entropy after 250 steps." in words


@pytest.mark.parametrize(
    ("training", "standing", "told"),
    [
        (make_history(), Standing(120, "ab"), ["The training stands at step 120.", "is at work, or was killed."]),
        (None, Standing(3, "ab"), ["The training stands at step 3."]),
        (make_history(), None, ["The training has no checkpoint yet."]),
    ],
)
def test_a_training_that_was_killed_is_told_so(
    training: TrainingHistory | None, standing: Standing | None, told: list[str]
) -> None:
    """By whatever there is of it, and where nobody knows how many steps there are to be."""
    status = {"stage": "train-student", "state": "running", "message": "", "progress": {}}
    story = make_story(status=status, training=training, standing=standing, evaluation=None)
    words = Reader(render_page(story)).words
    assert all(line in words for line in told)
    assert "No student was trained" not in words


def test_the_command_of_a_training_on_some_shards_says_so() -> None:
    for some in (True, False):
        story = make_story(standing=Standing(300, "ab", on_some_shards=some))
        assert ("--use-sealed-only" in command(story, "train-student")) == some
        assert "--use-sealed-only" not in command(story, "cache-teacher")


def test_where_a_training_stopped_early_is_told() -> None:
    assert "step it stopped early at, 10 evaluations in vain" in Reader(rendered("stopped early")).words
    assert "stopped early" not in Reader(rendered("whole")).words


def test_a_loss_is_told_as_a_loss() -> None:
    words = Reader(rendered("worse")).words
    assert "0.275" in words
    assert "nats worse" in words
    assert "did not beat its baseline" in words
    assert "of the way" not in words


def test_the_page_is_self_contained(page: str) -> None:
    reader = Reader(page)
    assert all(link.startswith("#") for link in reader.links)
    assert not {"script", "link", "iframe", "img", "object"} & set(reader.tags)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert len(reader.ids) == len(set(reader.ids))
    targets = [link[1:] for link in reader.links]
    assert set(targets) <= set(reader.ids)
    assert len(page) < 400_000


def test_text_of_a_run_never_becomes_markup() -> None:
    story = make_story(
        name=HOSTILE,
        run_dir=f"runs/{HOSTILE}",
        config={"teacher": {"model": HOSTILE}},
        config_text=HOSTILE,
        status={"stage": HOSTILE, "state": "failed", "message": HOSTILE},
        compare={HOSTILE: make_history(4.4)},
    )
    reader = Reader(render_page(story))
    assert not {"script", "img"} & set(reader.tags)
    assert reader.words.count("<script>document.title='owned'</script>") >= 8


@pytest.mark.parametrize("name", partial_stories())
def test_runs_that_stopped_on_the_way(name: str) -> None:
    story = partial_stories()[name]
    reader = Reader(rendered(name))
    if story.is_study_alone:
        assert "no cache, no student and no evaluation of its own" in reader.words
        assert "cache-teacher" not in reader.words
        return
    assert ("There is no teacher cache" in reader.words) == (story.cache is None)
    assert ("The teacher cache is not complete" in reader.words) == (name in ("planned", "capturing"))
    assert ("No student was trained" in reader.words) == (story.training is None)
    assert ("The models were not evaluated" in reader.words) == (story.evaluation is None)


def test_a_study_alone_has_a_headline_and_the_command_that_made_it() -> None:
    reader = Reader(rendered("study alone"))
    assert {"summary", "study", "reproduce"} == {name for name in reader.ids if "-" not in name}
    assert "98%" in reader.words
    assert "Of what full distillation gains over labels only, so much is kept by the default's cache, 86 bytes" in (
        " ".join(reader.words.split())
    )
    assert "sad-pipeline bench quality --run-dir artifacts/demo" in reader.words
    assert "1,200 steps, V = 4,096, K = 32" in reader.words
    assert reader.tags.count("svg") == 1 + 2 + 2


def test_a_study_without_a_default_has_a_headline_too() -> None:
    words = Reader(rendered("study of one seed")).words
    assert "arms compared" in words
    assert "The default itself is not in this study" in words


def test_a_study_without_figures_says_how_to_get_them() -> None:
    reader = Reader(rendered("study begun"))
    assert "A study was begun, and has no figures yet." in reader.words
    assert "sad-pipeline bench quality --run-dir artifacts/demo" in reader.words
    assert "study" not in reader.ids


def test_a_run_without_a_config_is_told_to_write_one() -> None:
    assert "sad-pipeline cache-teacher -c my.yaml --run-dir artifacts/demo" in Reader(rendered("empty")).words
    assert "-c artifacts/demo/config.yaml" in Reader(rendered("cached")).words


def test_a_pause_is_told() -> None:
    words = Reader(rendered("capturing")).words
    assert "4 of 9" in words
    assert "paused with 4 of 9 shards sealed: SIGINT" in words
    assert "not sealed" in words


def test_the_same_run_gives_the_same_page(page: str) -> None:
    assert render_page(make_story()) == page


def test_commands_name_what_the_config_does_not() -> None:
    rows = (
        make_row("student", "student", 4.2, kl_exact_nats=0.5),
        dataclasses.replace(make_row("labels only", "baseline", 4.5), folder="other/student/model"),
    )
    story = make_story(
        evaluation=dataclasses.replace(make_result(), rows=rows), compare_dirs={"labels only": "artifacts/other"}
    )
    words = Reader(render_page(story)).words
    assert """--set 'eval.baselines={"labels only": "other/student/model"}'""" in words
    assert "--set eval.teacher=artifacts/demo/teacher" in words
    assert "sad-pipeline report artifacts/demo --compare 'labels only=artifacts/other'" in words


def test_both_schemes_and_narrow_screens_are_provided_for(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert "max-width: 720px" in page
    assert 'name="viewport"' in page
    used = set(re.findall(r"var\((--[\w-]+)\)", page))
    assert used <= set(re.findall(r"(--[\w-]+):", page))
