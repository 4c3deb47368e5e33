"""The site in a real browser, from the file system: it sorts, filters and draws, asks nothing of a network, and no text
of a record does anything.

Needs Chromium (Debian: ``apt-get install chromium``; ``CHROMIUM`` names another one) and playwright, of the ``[test]``
extra. Without Chromium these tests are skipped, but in continuous integration (``CI`` is set) they fail.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from leaderboard.boards import HOSTILE, add_run
from leaderboard.pages import as_run, hostile_boards, small_boards
from records.sample_runs import sample_model, sample_run

from timm_lipschitz.leaderboard import build_site, render_run_page
from timm_lipschitz.leaderboard.site.curves import brackets

pytest.importorskip("playwright.sync_api", reason="needs playwright, which the [test] extra brings")
from playwright.sync_api import Browser, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
# Chromium of its own accord looks for updates and the like; what a page asks for is seen all the same.
ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ,
    reason="needs Chromium: apt-get install chromium, or CHROMIUM=/path/to/chrome",
)


class Seen:
    """A page that is ready, and everything it said and asked for on the way."""

    def __init__(self, page: Page, path: Path, scripted: bool = True):
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        page.on("request", self._requested)
        page.goto(path.as_uri())
        if scripted and page.locator("script#data").count():
            page.wait_for_selector("html[data-ready]", state="attached")

    def _requested(self, request) -> None:
        if not request.url.startswith(("file:", "data:")):
            self.complaints.append(f"asked for {request.url}")

    def column(self, number: int) -> list[str]:
        return self.page.locator(f"#board tbody tr :nth-child({number})").all_inner_texts()

    def names(self) -> list[str]:
        return self.page.locator("#board tbody th").all_inner_texts()

    def curves(self) -> int:
        """How many staircases the chart draws."""
        paths = self.page.locator("#curves svg .mark-line path")
        return sum(1 for d in (path.get_attribute("d") for path in paths.all()) if d and d.count("L") > 50)

    def marks(self, chart: str) -> int:
        return self.page.locator(f"#{chart} svg .mark-symbol path").count()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Seen]]:
    contexts = []

    def opened(path: Path, **settings) -> Seen:
        contexts.append(browser.new_context(**settings))
        return Seen(contexts[-1].new_page(), path, settings.get("java_script_enabled", True))

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    return build_site(small_boards(folder / "boards", folder), folder / "out").parent


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Path:
    return build_site(ROOT / "leaderboards", tmp_path_factory.mktemp("shipped") / "out").parent


@pytest.mark.parametrize("width", [360, 800, 1200, 1400, 1800])
def test_the_first_page_of_the_shipped_boards_hides_no_figure(shipped, open_page, width):
    page = open_page(shipped / "index.html", viewport={"width": width, "height": 800}).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cards = page.locator(".cards > li")
    assert cards.count() == 3
    for card in cards.all():
        inner = card.locator("table")
        assert inner.evaluate("table => table.scrollWidth <= table.parentElement.clientWidth")


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_no_page_complains_asks_or_overflows(site, open_page, width, scheme):
    for path in sorted(site.rglob("*.html")):
        seen = open_page(path, color_scheme=scheme, viewport={"width": width, "height": 800})
        seen.page.wait_for_timeout(50)
        assert seen.complaints == [], path
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert seen.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
    background = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 23, 28)" if scheme == "dark" else "rgb(255, 255, 255)")


@pytest.mark.parametrize("width", [1280, 390])
def test_a_click_or_a_key_sorts_by_number(site, open_page, width):
    """On a phone, or zoomed in, too."""
    seen = open_page(site / "datasets/mnist.html", viewport={"width": width, "height": 900})
    header = seen.page.locator("#board thead th", has_text="Parameters")
    assert header.get_attribute("aria-sort") is None
    header.click()
    seen.page.wait_for_selector("#board thead th[aria-sort=ascending]")
    assert header.get_attribute("aria-sort") == "ascending"
    assert seen.names() == ["sandwich_mlp.mnist", "aol_cnn.mnist", "sandwich_cnn.mnist"]
    header.locator("[role=button], .dt-column-order").first.focus()
    seen.page.keyboard.press("Enter")
    seen.page.wait_for_selector("#board thead th[aria-sort=descending]")
    assert header.get_attribute("aria-sort") == "descending"
    assert seen.names() == ["sandwich_cnn.mnist", "aol_cnn.mnist", "sandwich_mlp.mnist"]
    seen.page.locator("#board thead th", has_text="Clean").click()
    seen.page.wait_for_selector("#board thead th[aria-sort=descending]:has-text('Clean')")
    clean = [float(text.split()[0]) for text in seen.column(3)]
    assert clean == sorted(clean, reverse=True), "the best first"
    assert seen.complaints == []


def test_filters_narrow_the_table_and_the_charts(site, open_page):
    seen = open_page(site / "datasets/mnist.html")
    page, status = seen.page, seen.page.locator("#shown")
    assert (len(seen.names()), seen.curves(), seen.marks("parameters")) == (3, 3, 3)
    assert status.inner_text() == "3 entries"

    page.get_by_label("Search").fill("sandwich")
    assert len(seen.names()) == 2
    assert status.inner_text() == "2 of 3 entries"
    expect(page.locator("#legend li")).to_have_count(2)
    assert (seen.curves(), seen.marks("parameters"), seen.marks("time")) == (2, 2, 2)

    page.get_by_label("At most").fill("1")
    assert seen.names() == ["sandwich_mlp.mnist"]
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#legend li")).to_have_count(3)
    assert len(seen.names()) == 3

    page.get_by_label("Search").fill("98")
    assert seen.names() == [], "names alone are searched, not figures"
    expect(page.locator("#parameters-empty")).to_be_visible()
    page.get_by_role("button", name="Clear").click()

    page.get_by_label("Family").select_option("aol_cnn")
    assert seen.names() == ["aol_cnn.mnist"]
    page.get_by_label("Search").fill("no such model")
    assert status.inner_text() == "0 of 3 entries"
    expect(page.locator(".readout")).to_be_hidden()
    assert seen.complaints == []


def test_of_networks_that_differ_in_their_seed_alone_one_curve_is_drawn(tmp_path, open_page):
    root = small_boards(tmp_path / "boards", tmp_path)
    for seed in (7, 8):
        model = sample_model(name=f"local-dir:net-{seed}", family="orthogonal_cnn", weights_sha256=f"{seed}" * 64)
        run = sample_run(500, 50, seed, None, f"net-{seed}", model=model)
        assert run.record.training is not None
        add_run(
            tmp_path,
            root,
            run.with_record(training=run.record.training.model_copy(update={"seed": seed, "data_sha256": "d" * 64})),
        )
    seen = open_page(build_site(root, tmp_path / "site").parent / "datasets/mnist.html")
    legend = seen.page.locator("#legend li")
    assert len(seen.names()) == 5
    expect(legend).to_have_count(4)
    assert (seen.curves(), seen.marks("parameters")) == (4, 4)
    assert not any("net-8" in text for text in legend.all_inner_texts())
    seen.page.get_by_label("Search").fill("net-8")
    expect(legend).to_have_count(1)
    assert "net-8" in legend.inner_text()
    assert seen.complaints == []


def test_a_network_without_a_certificate_has_markers_and_no_curve(shipped, open_page):
    seen = open_page(shipped / "datasets/mnist.html")
    page = seen.page
    networks = page.locator("#legend li").count()
    assert seen.curves() == networks - 1
    plain = page.locator("#legend li", has_text="plain_")
    assert "no certificate" in plain.inner_text()
    assert [plain.locator(f"svg .{kind}").count() for kind in ("line", "marker")] == [0, 1]
    assert page.locator("#legend svg .line").count() == networks - 1
    shapes = page.locator("#legend svg .marker").evaluate_all("paths => paths.map((path) => path.getAttribute('d'))")
    assert len(set(shapes)) == len(shapes) == networks
    labels = [mark.get_attribute("aria-label") for mark in page.locator("#curves svg .mark-symbol path").all()]
    assert any(label.startswith("plain_cnn.mnist, attacked at L2 1.0: ") for label in labels)
    page.get_by_label("Search").fill("plain_cnn")
    expect(page.locator("#legend li")).to_have_count(1)
    assert seen.complaints == []


def test_the_slider_reads_the_curves_by_keyboard(site, open_page):
    seen = open_page(site / "datasets/mnist.html")
    page = seen.page
    slider = page.get_by_role("slider", name=re.compile("Accuracy at L2 radius"))
    results = as_run(sample_run(500, 50, 0, 500, "sandwich_cnn.mnist")).record.results
    reading = page.locator("#legend li", has_text="sandwich_cnn.mnist").locator("strong")
    assert page.locator("#radius-value").inner_text() == "1.580"
    assert reading.inner_text() == f"{results.at('l2:1.58').certified.percent}%"
    slider.focus()
    page.keyboard.press("Home")
    assert page.locator("#radius-value").inner_text() == "0.000"
    spoken = slider.get_attribute("aria-valuetext")
    assert spoken.startswith("radius 0.000: ")
    assert f"sandwich_cnn.mnist {results.clean.percent}%" in spoken
    assert reading.inner_text() == f"{results.clean.percent}%"
    attacked = results.at("l2:1.0").robust
    while page.locator("#radius-value").inner_text() != "1.000":
        page.keyboard.press("ArrowRight")
    note = page.locator("#legend li", has_text="sandwich_cnn.mnist").locator(".note")
    assert note.inner_text() == f"attacked {attacked.percent}% of {attacked.total}"
    chart = page.locator("#curves svg")
    chart.hover(position={"x": chart.bounding_box()["width"] / 2, "y": 60})
    expect(page.locator("#radius-value")).to_have_text(re.compile("^1\\."))
    assert seen.complaints == []


def test_points_carry_their_figures_and_the_accuracy_can_be_chosen(site, open_page):
    seen = open_page(site / "datasets/mnist.html")
    page = seen.page
    run = as_run(sample_run(500, 50, 0, 500, "sandwich_cnn.mnist"))
    robust = run.record.results.at("l2:1.0").robust
    labels = [mark.get_attribute("aria-label") for mark in page.locator("#curves svg .mark-symbol path").all()]
    (label,) = [text for text in labels if text.startswith("sandwich_cnn.mnist, attacked at L2 1.0:")]
    assert f"{robust.percent}% (95% interval" in label
    assert len(labels) == 9
    page.get_by_role("combobox", name=re.compile("^Accuracy")).select_option("clean")
    expect(page.locator("#parameters svg .mark-symbol path").first).to_have_attribute(
        "aria-label", re.compile("Clean: ")
    )
    page.locator("#parameters svg .mark-symbol path").first.hover(force=True)
    page.wait_for_selector(".tip:not([hidden])")
    assert "95% interval" in page.locator(".tip").inner_text()
    assert seen.complaints == []


def test_a_models_page_draws_its_radii_and_copies_its_command(site, open_page):
    seen = open_page(site / "models/mnist/sandwich_cnn.mnist.html", permissions=["clipboard-read", "clipboard-write"])
    page = seen.page
    found = brackets(as_run(sample_run(500, 50, 0, 500, "sandwich_cnn.mnist")))
    assert seen.curves() == 3
    assert seen.marks("radii") == len(found.index) + np.isfinite(found.upper).sum()  # dots and triangles
    button = page.locator("[data-copy=command]")
    button.click()
    expect(button).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "timm-lipschitz evaluate sandwich_cnn.mnist"
    assert seen.complaints == []


def test_colours_follow_the_reader(site, open_page):
    seen = open_page(site / "datasets/mnist.html", color_scheme="light")
    page = seen.page
    line = page.locator("#curves svg .mark-line path").first
    light = line.get_attribute("stroke")
    page.emulate_media(color_scheme="dark")
    expect(page.locator("#curves svg .mark-line path").first).not_to_have_attribute("stroke", light)
    assert seen.curves() == 3
    assert seen.complaints == []


def test_a_page_of_one_run_works_alone(tmp_path, open_page):
    path = tmp_path / "index.html"
    path.write_text(render_run_page(as_run(sample_run(300, 50))))
    seen = open_page(path)
    assert seen.curves() == 3
    assert seen.complaints == []


def test_hostile_text_does_nothing(tmp_path, open_page):
    out = build_site(hostile_boards(tmp_path / "boards", tmp_path), tmp_path / "out").parent
    board = open_page(out / "datasets/mnist.html")
    clean = [" ".join(name.replace("\u202e", "").split()) for name in HOSTILE]
    assert sorted(board.names()) == sorted(clean)
    board.page.locator("#board thead th", has_text="Parameters").click()
    board.page.get_by_label("Search").fill("<img src=x onerror=alert(1)>")
    expect(board.page.locator("#legend li")).to_have_count(1)
    board.page.locator("#parameters svg .mark-symbol path").first.hover(force=True)
    board.page.wait_for_selector(".tip:not([hidden])")
    assert "<img src=x onerror=alert(1)>" in board.page.locator(".tip").inner_text()
    models = [open_page(path) for path in sorted((out / "models").rglob("*.html"))[:4]]
    for seen in [board, *models]:
        assert seen.complaints == []
        assert seen.page.locator("img, iframe, script:not([src]):not([type='application/json'])").count() == 0
        assert seen.page.locator("a[href^='javascript'], a[href^='http']").count() == 0


def test_the_policy_stops_a_script_that_gets_into_a_page(site, tmp_path, open_page):
    """The second line of defence works from a file system too."""
    page = (
        (site / "index.html")
        .read_text()
        .replace("<h1>", "<script>alert(1)</script><img src='data:,' onerror='alert(2)'><h1>")
    )
    (site / "broken.html").write_text(page)
    seen = open_page(site / "broken.html")
    (site / "broken.html").unlink()
    assert seen.complaints
    assert all("Content Security Policy" in text for text in seen.complaints), seen.complaints


@pytest.mark.parametrize("width", [390, 1280])
def test_markers_stand_at_their_radius_and_name_what_they_say(shipped, open_page, width):
    seen = open_page(shipped / "datasets/mnist.html", viewport={"width": width, "height": 900})
    places = seen.page.evaluate(
        """() => [...document.querySelectorAll("#curves svg .mark-symbol path")].map((path) => {
            const { x, width } = path.getBoundingClientRect();
            return [path.getAttribute("aria-label"), x + width / 2];
        })"""
    )
    assert len(places) >= 10
    eps = {"36/255": 36 / 255, "1.0": 1.0, "1.58": 1.58}
    at = [(eps[re.search(r"attacked at L2 (\S+): ", label)[1]], x) for label, x in places]
    (low, left), (high, right) = min(at), max(at)
    for radius, x in at:
        assert abs(x - (left + (radius - low) / (high - low) * (right - left))) < 1.5
    assert seen.page.locator("#curves svg [aria-label*='slot']").count() == 0


def test_the_figure_that_ranks_is_in_view_on_a_phone(shipped, open_page):
    for dataset in ("mnist", "cifar10_jpeg", "fashion_mnist"):
        page = open_page(shipped / f"datasets/{dataset}.html", viewport={"width": 390, "height": 900}).page
        box = page.locator("#board tbody td.primary").first.bounding_box()
        assert box["x"] + box["width"] <= 390


def test_the_other_series_stand_back_while_one_is_pointed_at(site, open_page):
    page = open_page(site / "datasets/mnist.html").page
    lines = page.locator("#curves svg .mark-line path")
    page.locator("#legend li").first.hover()
    expect(lines.nth(1)).to_have_attribute("opacity", "0.12")
    page.mouse.move(0, 0)
    expect(lines.nth(1)).to_have_attribute("opacity", "1")


def test_a_models_slider_starts_where_attacks_ran_and_says_where_none_did(shipped, open_page):
    page = open_page(shipped / "models/cifar10_jpeg/sandwich_bcop_cnn.cifar10_jpeg.html").page
    assert page.locator("#radius-value").inner_text() == "108/255"
    note = page.locator("#legend li", has_text="No adversarial example").locator(".note")
    assert note.count() == 0
    page.get_by_role("slider").press("End")
    assert note.inner_text() == "beyond the radii attacked"


def test_pages_without_javascript_say_where_the_figures_are(site, open_page):
    for path in (site / "datasets/mnist.html", site / "models/mnist/sandwich_cnn.mnist.html"):
        page = open_page(path, java_script_enabled=False).page
        assert page.locator(".chart:visible").count() == 0
        assert page.get_by_text("The chart needs JavaScript").first.is_visible()
