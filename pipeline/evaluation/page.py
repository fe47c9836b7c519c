"""report.html: one page that tells what a run did and what it is worth, without network and without scripts."""

from __future__ import annotations

from importlib import resources

from pipeline import __version__
from pipeline.evaluation.cache_section import cache_section
from pipeline.evaluation.data_section import data_section
from pipeline.evaluation.headline import commands, hero, missing
from pipeline.evaluation.markup import Markup, code, details, element, join, section, table
from pipeline.evaluation.story import Story
from pipeline.evaluation.study_section import study_section
from pipeline.evaluation.summary import EvalResult, TextSample, columns_of, remarks_on, row_title
from pipeline.evaluation.training_section import training_section

# The page may load nothing from anywhere and run nothing, whatever text a run carries into it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def render_page(story: Story) -> str:
    """The whole page; parts a run has not reached are left out and named at the top."""
    parts = [part for part in _parts(story) if part]
    return "<!doctype html>\n" + element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", f"{story.name}: sad-pipeline report"),
            element("style", Markup(resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8"))),
        ),
        element("body", _header(story), element("main", hero(story), missing(story), *parts), _footer()),
        lang="en",
    )


def _parts(story: Story) -> list[Markup]:
    teacher = story.evaluation.first("teacher") if story.evaluation else None
    return [
        _models(story.evaluation) if story.evaluation else Markup(""),
        training_section(story.training, story.compare, teacher.cross_entropy_nats if teacher else None)
        if story.training
        else Markup(""),
        cache_section(story.cache) if story.cache else Markup(""),
        data_section(story.data) if story.data else Markup(""),
        _samples(story.evaluation) if story.evaluation and story.evaluation.samples else Markup(""),
        study_section(story.studies) if story.studies else Markup(""),
        _reproduce(story),
    ]


def _header(story: Story) -> Markup:
    links = [
        ("models", "Models", story.evaluation is not None),
        ("training", "Training", story.training is not None),
        ("cache", "Teacher cache", story.cache is not None),
        ("data", "Data", story.data is not None),
        ("samples", "Samples", bool(story.evaluation and story.evaluation.samples)),
        ("study", "Study", bool(story.studies)),
        ("reproduce", "Reproduce", True),
    ]
    return element(
        "header",
        element("p", "sad-pipeline report", class_="eyebrow"),
        element("h1", story.name),
        element("p", story.subtitle(), class_="sub"),
        element("nav", *(element("a", title, href=f"#{anchor}") for anchor, title, here in links if here)),
    )


def _models(result: EvalResult) -> Markup:
    columns = columns_of(result)
    rows = [[column.cell(row) or "–" for column in columns] for row in result.rows]
    best = result.best_student()
    data = result.data
    lead = (
        f"Measured on {data.num_positions:,} scored positions of {data.num_sequences:,} held-out sequences "
        f"({data.num_bytes:,} bytes of text). The teacher's row comes from its cached predictions."
    )
    notes = [*remarks_on(result), "Lower is better for cross-entropy, perplexity, bits per byte and KL."]
    if any(row.kl_bucket_nats is not None for row in result.rows):
        notes.append(
            "The KL from the cache is a lower bound: it counts the cached head token by token and everything else as "
            "one outcome; the exact KL, where there is one, runs over the whole vocabulary. The two cannot be "
            "compared. With a cache of the kind sampled, the KL from the cache is no bound but an estimate of the "
            "exact KL, right on average."
        )
    if any(row.memory_kind == "process" for row in result.rows):
        notes.append("Process memory is the most this process ever held, the models measured before included.")
    if any(row.perplexity_capped for row in result.rows):
        notes.append("A perplexity marked ≥ is capped at exp(20).")
    classes = ["best" if row is best else "" for row in result.rows]
    figures = table([column.heading for column in columns], rows, classes)
    return section("models", "Models", figures, element("p", " ".join(notes), class_="note"), lead=lead)


def _samples(result: EvalResult) -> Markup:
    lead = "The same beginnings, continued by each model, beside what the text really said."
    order = [row_title(row) for row in result.rows]
    return section("samples", "Samples of text", *(_sample(sample, order) for sample in result.samples), lead=lead)


def _sample(sample: TextSample, order: list[str]) -> Markup:
    """One beginning; the models in the `order` of the table, others after them."""
    names = sorted(sample.continuations, key=lambda name: order.index(name) if name in order else len(order))
    answers = [] if sample.reference is None else [("the text itself", sample.reference)]
    answers += [(name, sample.continuations[name]) for name in names]
    return element(
        "div",
        element("div", element("h3", "beginning"), code(sample.prompt), class_="prompt"),
        element("div", *(element("div", element("h3", name), code(text)) for name, text in answers), class_="answers"),
        class_="sample",
    )


def _reproduce(story: Story) -> Markup:
    parts = [commands(story)]
    if story.evaluation and story.evaluation.environment:
        rows = [[name, value] for name, value in sorted(story.evaluation.environment.items())]
        parts.append(details("Environment of the evaluation", table(["part", "version"], rows, words=True)))
    if story.config_text:
        parts.append(details("Resolved configuration", code(story.config_text)))
    for name, text in story.study_configs.items():
        parts.append(details(f"Resolved configuration of the study, {name}", code(text)))
    if story.study_begun:
        parts.insert(1, element("p", "bench quality takes the options it was begun with.", class_="note"))
    lead = (
        "Each command resumes where it stopped. The same configuration gives the same cache, byte for byte, on the "
        "same kind of machine with the same library versions, and elsewhere within rounding."
    )
    return section("reproduce", "Reproduce", *parts, lead=lead)


def _footer() -> Markup:
    return element("footer", join(["sad-pipeline ", __version__, ". This page is one file and loads nothing."]))
