"""The HTML page: complete, accessible, self-contained, and inert whatever a record says."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from leaderboard.boards import HOSTILE, hostile_runs
from records.sample_runs import Sample, sample_model, sample_run

from timm_lipschitz.errors import InvalidInputError
from timm_lipschitz.leaderboard import render_page
from timm_lipschitz.leaderboard._cells import duration
from timm_lipschitz.leaderboard.curve import certified_accuracy, draw
from timm_lipschitz.records import Run

VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails on tags that do not nest."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.stack: list[str] = []
        self.feed(html)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if "style" not in self.stack:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def as_run(sample: Sample) -> Run:
    return Run(sample.record, sample.images, sample.attacks, sample.run_info)


@pytest.fixture(scope="module")
def runs():
    return [as_run(sample_run(count=300, attacked=50, seed=seed, record_id=f"run-{seed}")) for seed in range(2)]


def test_the_page_shows_the_figures_and_links(runs):
    html = render_page(runs[:1], title="Quick start", links=["record.json"])
    page = Page(html)
    text = " ".join("".join(page.text).split())
    results = runs[0].record.results
    assert {"href": "record.json"} in page.all("a")
    assert results.clean.percent in text
    for figures in results.threat_models:
        assert figures.threat_model in text
        assert figures.certified.percent in text
        assert figures.robust.percent in text
        assert "[{}, {}]".format(*figures.robust.interval_percent) in text
        assert f"{figures.attacks[0].attacked.count} of 50 attacked" in text
    for fact in (
        "real, logits rounded to float64",
        "a" * 64,
        "timm-lipschitz evaluate sandwich_cnn.mnist",
        "torch 2.15.0",
    ):
        assert fact in text
    assert html.startswith("<!doctype html>")
    assert html == render_page(runs[:1], title="Quick start", links=["record.json"])


def test_the_page_is_accessible(runs):
    page = Page(render_page(runs))
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("caption")) == len(page.all("table")) == 1
    assert all("scope" in attributes for attributes in page.all("th"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.elements:
        assert set((attributes.get("aria-labelledby") or "").split()) <= set(ids)
    charts = [attributes for attributes in page.all("svg") if attributes.get("role") == "img"]
    assert len(charts) == 1
    assert charts[0]["aria-labelledby"]
    assert "certified at l2:1.0" in "".join(page.text)
    viewport = [attributes["content"] for attributes in page.all("meta") if attributes.get("name") == "viewport"]
    assert viewport == ["width=device-width, initial-scale=1"]
    assert "prefers-color-scheme: dark" in render_page(runs)


def test_the_page_asks_nothing_of_the_network(runs):
    html = render_page(runs)
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object", "embed", "form"} & {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        assert not {"src", "srcset", "data", "action", "background", "xlink:href"} & set(attributes)
    assert not re.search(r"url\(|@import|https?://", html)
    policies = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"]


def test_hostile_text_is_shown_and_does_nothing(runs):
    hostile = [as_run(run) for run in hostile_runs()]
    page = Page(render_page(hostile, title=HOSTILE[1]))
    harmless = Page(render_page(runs * (len(HOSTILE) // 2)))
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in harmless.elements}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert "href" not in attributes
    text = "".join(page.text)
    for name in HOSTILE:
        assert name.replace("\u202e", "") in text
    assert "\u202e" not in text
    assert "49" not in re.findall(r"How (\d+) was measured", text)


@pytest.mark.parametrize("link", ["javascript:alert(1)", "http://example.org", "../x", '"onclick="x'])
def test_other_links_than_https_are_refused(runs, link):
    with pytest.raises(InvalidInputError, match="refused"):
        render_page(runs[:1], links=[link])


def test_nothing_or_unmatched_links_are_refused(runs):
    with pytest.raises(InvalidInputError, match="at least one run"):
        render_page([])
    with pytest.raises(InvalidInputError, match="1 links were given for 2 runs"):
        render_page(runs, links=["record.json"])


def test_runs_on_several_data_sets_get_a_table_each(runs):
    dataset = runs[1].record.dataset.model_copy(update={"name": "fashion_mnist"})
    other = Run(runs[1].record.model_copy(update={"dataset": dataset}), *vars_of(runs[1]))
    page = Page(render_page([runs[0], other], links=["a.json", "b.json"]))
    assert len(page.all("table")) == 2
    assert [attributes["href"] for attributes in page.all("a")] == ["b.json", "a.json"]


def vars_of(run: Run):
    return run.images, run.attacks, run.run_info


def test_runs_without_certificate_or_attacks_are_shown():
    plain = sample_run(attacks=())
    images = plain.images
    bare = type(images)(
        images.index, images.label, images.prediction, images.margin, np.zeros(len(images)), images.correct
    )
    record = plain.record.model_copy(update={"certification": None, "model": sample_model(lipschitz=None)})
    text = "".join(Page(render_page([Run(record, bare, plain.attacks, plain.run_info)])).text)
    assert "\N{EN DASH}" in text
    assert "none" in text


def test_certified_accuracy_is_exact_at_every_radius(runs):
    images = runs[0].images
    eps = np.concatenate([[0.0], images.radius[:20], images.radius[:20] * 1.01])
    expected = [np.mean(images.correct & ((images.radius > e) | (e == 0))) for e in eps]
    np.testing.assert_array_equal(certified_accuracy(images, eps), expected)


def test_the_curve_starts_at_clean_never_exceeds_the_data_and_ends_at_the_frame(runs):
    chart = draw(runs[:1], ["x"])
    path = chart.series[0].path
    x_of = {tick.label: float(tick.position) for tick in chart.x_ticks}
    unit = x_of["1"] - x_of["0"]
    height = chart.bottom - chart.top
    start = re.match(r"M([\d.]+),([\d.]+)", path)
    assert float(start[2]) == pytest.approx(chart.bottom - height * runs[0].record.results.clean.fraction, abs=0.01)
    steps = [(float(x), float(y)) for x, y in re.findall(r"H([\d.]+)V([\d.]+)", path)]
    assert len(steps) > 50
    level = float(start[2])
    for x, y in steps:
        assert y > level  # downwards on the screen: a staircase that only falls
        level = y
        drawn = (chart.bottom - y) / height
        # The height from x on holds up to the next grid line; the exact curve at x is at least that high.
        exact = certified_accuracy(runs[0].images, np.array([(x - x_of["0"]) / unit - 0.01 / unit]))[0]
        assert drawn <= exact + 1e-4
    assert path.endswith(f"H{chart.right:.2f}")


def test_attacked_points_lie_at_their_eps_and_accuracy(runs):
    chart = draw(runs[:1], ["x"])
    x_of = {tick.label: float(tick.position) for tick in chart.x_ticks}
    figures = runs[0].record.results.at("l2:1.0")
    point = chart.series[0].points[1]
    assert float(point.x) == pytest.approx(x_of["1"], abs=0.01)
    height = chart.bottom - chart.top
    low, high = (chart.bottom - float(y) for y in (point.low, point.high))
    assert (low / height, high / height) == pytest.approx(figures.robust.interval, abs=1e-4)
    assert f"{figures.robust.percent}%" in point.text
    assert [float(tick.position) for tick in chart.y_ticks][::5] == [chart.bottom, chart.top]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (59.0, "59 s"),
        (59.1, "1 min 00 s"),
        (61.0, "1 min 01 s"),
        (3599.5, "1 h 00 min"),
        (7801, "2 h 11 min"),
    ],
)
def test_durations_are_rounded_up(seconds, text):
    assert duration(seconds) == text
