"""The site as files: complete, accessible, without a network, and inert whatever a record says."""

import base64
import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path
from urllib.parse import urldefrag

import numpy as np
import pytest
from leaderboard.boards import HOSTILE, add_run
from leaderboard.pages import Page, as_run, hostile_boards, small_boards
from records.sample_runs import sample_model, sample_run

from timm_lipschitz.errors import InvalidInputError, RecordError
from timm_lipschitz.leaderboard import build_site, render_run_page
from timm_lipschitz.leaderboard.site.rendering import json_island
from timm_lipschitz.records import Run

SHIPPED = Path(__file__).parents[2] / "leaderboards"
ENDS = (".json", ".images.parquet", ".attacks.parquet", ".run.json")
MAX_PAGE_BYTES = 2_000_000


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    root = small_boards(folder / "boards", folder)
    return build_site(root, folder / "out").parent


def pages(site: Path) -> dict[str, Page]:
    return {path.relative_to(site).as_posix(): Page(path.read_text()) for path in sorted(site.rglob("*.html"))}


def test_the_pages_are_all_there(site):
    assert set(pages(site)) == {
        "index.html",
        "methodology.html",
        "published.html",
        "datasets/mnist.html",
        *(f"models/mnist/{name}.mnist.html" for name in ("aol_cnn", "sandwich_cnn", "sandwich_mlp")),
    }


def test_every_link_leads_somewhere_inside_the_site(site):
    for name, page in pages(site).items():
        ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
        targets = [a["href"] for a in page.all("a") + page.all("link")] + [
            a["src"] for a in page.all("script") if "src" in a
        ]
        for target in targets:
            path, anchor = urldefrag(target)
            if path and path != "data:,":
                assert not path.startswith(("http", "/", "file")), (name, target)
                assert (site / name).parent.joinpath(path).resolve().is_relative_to(site.resolve())
                assert (site / name).parent.joinpath(path).is_file(), (name, target)
            elif anchor:
                assert anchor in ids, (name, target)


def test_pages_are_accessible(site):
    for name, page in pages(site).items():
        assert page.all("html") == [{"lang": "en"}]
        assert len(page.all("h1")) == len(page.all("main")) == len(page.all("title")) == 1, name
        assert all("scope" in attributes for attributes in page.all("th"))
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids)), name
        for _, attributes in page.elements:
            assert set((attributes.get("aria-labelledby") or "").split()) <= set(ids)
        assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
        scrolled = [a for tag, a in page.elements if tag == "div" and a.get("class") == "scroll"]
        assert all(a["tabindex"] == "0" and a["role"] == "region" for a in scrolled)  # scrolls by keyboard too


def test_the_policy_allows_the_pages_own_files_and_nothing_else(site):
    for page in pages(site).values():
        (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
        assert policy == (
            "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
            "script-src 'self' file:; style-src 'self' file:"
        )
        assert not {"iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
        assert all("src" in a or a.get("type") == "application/json" for a in page.all("script"))


def test_no_page_is_heavy(site):
    for name, page in pages(site).items():
        loaded = [a["src"] for a in page.all("script") if "src" in a] + [a["href"] for a in page.all("link")]
        own = [(site / name).parent / target for target in loaded if not target.startswith("data:")]
        assert sum(path.stat().st_size for path in [site / name, *own]) < MAX_PAGE_BYTES, name


def test_a_big_board_stays_light(tmp_path):
    for number in range(30):
        add_run(tmp_path, tmp_path / "boards", sample_run(40, 20, number, record_id=f"run-{number}"))
    build_site(tmp_path / "boards", tmp_path / "out")
    assert (tmp_path / "out/datasets/mnist.html").stat().st_size < 500_000


def test_the_table_shows_every_figure(site):
    page = pages(site)["datasets/mnist.html"]
    run = as_run(sample_run(500, 50, 0, 500, "sandwich_cnn.mnist"))
    for figures in run.record.results.threat_models:
        assert "{}[{}, {}]".format(figures.certified.percent, *figures.certified.interval_percent) in page.words
        assert "{}[{}, {}]".format(figures.robust.percent, *figures.robust.interval_percent) in page.words
        assert f"{figures.attacks[0].attacked.count} of 50 attacked" in page.words
    rows = [a for a in page.all("tr") if "data-id" in a]
    assert [a["data-id"] for a in rows][-1] == "aol_cnn.mnist"  # covers a part of the split
    assert {a["data-family"] for a in rows} == {"sandwich_cnn", "sandwich_mlp", "aol_cnn"}


def test_weights_from_a_folder_are_marked(tmp_path, site):
    folder = sample_model(name="local-dir:runs/mine")
    add_run(tmp_path, tmp_path / "boards", sample_run(40, 20, record_id="mine.mnist", model=folder))
    build_site(tmp_path / "boards", tmp_path / "out")
    words = pages(tmp_path / "out")["datasets/mnist.html"].words
    assert "mine.mnist \N{DAGGER}" in words
    assert "\N{DAGGER}: weights from a folder" in words
    assert "runs/mine" not in words
    assert "\N{DAGGER}" not in pages(site)["datasets/mnist.html"].words


def test_the_curves_start_at_clean_fall_and_pass_through_the_figures(site):
    data = pages(site)["datasets/mnist.html"].data
    grid = data["curves"]["grid"]
    for series in data["curves"]["series"]:
        record = json.loads((site / "records/mnist" / f"{series['id']}.json").read_text())
        results = record["results"]
        counts = dict(zip(grid, series["counts"], strict=True))
        assert series["total"] == results["clean"]["total"]
        assert counts[0.0] == results["clean"]["count"]
        for figures in results["threat_models"]:
            eps = {"l2:36/255": 36 / 255, "l2:1.0": 1.0, "l2:1.58": 1.58}[figures["threat_model"]]
            assert counts[eps] == figures["certified"]["count"]
            (point,) = [p for p in data["curves"]["points"] if (p["id"], p["radius"]) == (series["id"], eps)]
            assert point["percent"] == 100 * figures["robust"]["fraction"]
            assert [point["low"], point["high"]] == [100 * end for end in figures["robust"]["interval"]]
        assert all(more >= less for more, less in zip(series["counts"], series["counts"][1:], strict=False))
    assert grid[data["curves"]["start"]] == 1.58


def test_a_models_page_shows_what_is_known_of_it(site):
    page = pages(site)["models/mnist/sandwich_cnn.mnist.html"]
    run = as_run(sample_run(500, 50, 0, 500, "sandwich_cnn.mnist"))
    results = run.record.results
    for figure in [
        results.clean,
        *(f.certified for f in results.threat_models),
        *(f.robust for f in results.threat_models),
    ]:
        low, high = figure.interval_percent
        assert f"{figure.percent}%{low} to {high}{figure.count:,} of {figure.total:,}" in page.words
    for fact in (
        "timm-lipschitz evaluate sandwich_cnn.mnist",
        "real",
        "0" * 64,
        "b" * 64,
        run.record.tables.images_sha256,
        "torch 2.15.0",
        "recipe sandwich_cnn.mnist, seed 0, tuned on: validation, epochs 40",
        "@misc{timm-lipschitz-mnist-sandwich-cnn-mnist,",
        "@inproceedings{wang2023direct,",
        r"sandwich\_cnn.mnist & 3,000,000 &",
        "## Certificate",
    ):
        assert fact in page.words, fact
    bars = page.data["radii"]
    assert len(bars) == int(run.images.correct[:50].sum())
    assert {bar["open"] for bar in bars} == {0, 1}
    for bar in bars:
        assert bar["upper"] is None if bar["open"] else bar["lower"] <= bar["upper"]
    lines = {series["id"]: series for series in page.data["curves"]["series"]}
    assert (lines["certified"]["total"], lines["proved"]["total"], lines["unbroken"]["total"]) == (500, 50, 50)
    assert all(a <= b for a, b in zip(lines["proved"]["counts"], lines["unbroken"]["counts"], strict=True))


def test_files_of_the_entries_come_with_the_site_unchanged(site):
    originals = sorted((site.parent / "boards/mnist").glob("*.mnist.*"))
    assert len(originals) == 12
    for path in originals:
        assert (site / "records/mnist" / path.name).read_bytes() == path.read_bytes()


def test_the_same_records_give_the_same_bytes(site, tmp_path):
    again = build_site(site.parent / "boards", tmp_path).parent
    names = {path.relative_to(site) for path in site.rglob("*") if path.is_file()}
    assert {path.relative_to(again) for path in again.rglob("*") if path.is_file()} == names
    assert all((site / name).read_bytes() == (again / name).read_bytes() for name in names)


def test_a_damaged_entry_stops_everything_before_a_page_is_written(tmp_path):
    root = small_boards(tmp_path / "boards", tmp_path)
    (root / "mnist/aol_cnn.mnist.images.parquet").write_bytes(b"PAR1")
    with pytest.raises(RecordError, match=r"aol_cnn\.mnist: images\.parquet has SHA-256"):
        build_site(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_shipped_leaderboards_make_a_site_and_keep_published_figures_apart(tmp_path):
    out = build_site(SHIPPED, tmp_path).parent
    board, published = (Page((out / name).read_text()) for name in ("datasets/mnist.html", "published.html"))
    assert "sandwich 2C2F" in board.words
    assert "sandwich 2C2F" not in json.dumps(board.data)
    assert not [a for a in board.all("tr") if a.get("data-id") == "sandwich 2C2F"]
    sources = [a for a in published.all("a") if (a["href"] or "").startswith("https://")]
    assert len(sources) > 30
    assert all(a["rel"] == "noreferrer" for a in sources)
    assert "Nobody here has measured them" in published.words


def test_an_empty_leaderboard_makes_a_site(tmp_path):
    (tmp_path / "boards/mnist").mkdir(parents=True)
    out = build_site(tmp_path / "boards", tmp_path / "out").parent
    assert "No records yet" in Page((out / "datasets/mnist.html").read_text()).words


def test_hostile_text_is_shown_and_does_nothing(tmp_path, site):
    out = build_site(hostile_boards(tmp_path / "boards", tmp_path), tmp_path / "out").parent
    allowed = {tag for page in pages(site).values() for tag, _ in page.elements}
    shown = ""
    for page in pages(out).values():
        assert {tag for tag, _ in page.elements} <= allowed
        for _, attributes in page.elements:
            assert not [name for name in attributes if name.startswith("on")]
            assert not (attributes.get("href") or "").startswith(("http", "javascript"))
            assert not attributes.get("style")
        assert "<" not in page.island
        shown += page.words
    for name in HOSTILE:
        assert " ".join(name.replace("\u202e", "").split()) in shown
    assert "\u202e" not in shown
    assert "rank 49" not in shown


def test_an_island_never_ends_its_element():
    text = json_island({"name": "</script><script>alert(1)</script><!-- & \u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"name": "</script><script>alert(1)</script><!-- & \u2028"}
    with pytest.raises(ValueError, match="JSON compliant"):
        json_island({"radius": float("nan")})


def test_the_page_of_a_run_holds_everything_it_needs():
    html = render_run_page(as_run(sample_run(300, 50)), links={"Record": "record.json"})
    page = Page(html)
    assert [a["href"] for a in page.all("a")] == ["#content", "record.json"]
    assert page.all("link") == [{"rel": "icon", "href": "data:,"}]
    assert not [a for a in page.all("script") if "src" in a]
    assert len(html.encode()) < MAX_PAGE_BYTES
    (policy,) = [a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    blocks = re.findall(r"<script>(.*?)</script>", html, re.DOTALL) + re.findall(
        r"<style>(.*?)</style>", html, re.DOTALL
    )
    assert len(blocks) == 5
    for block in blocks:
        assert base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() in policy
    assert "unsafe" not in policy
    assert "Rank 1" not in page.words


@pytest.mark.parametrize("link", ["javascript:alert(1)", "http://example.org", "../x", '"onclick="x'])
def test_other_links_than_https_are_refused(link):
    with pytest.raises(InvalidInputError, match="refused"):
        render_run_page(as_run(sample_run()), links={"Record": link})


def test_runs_without_certificate_or_attacks_are_shown():
    plain = sample_run(attacks=())
    images = plain.images
    bare = type(images)(
        images.index, images.label, images.prediction, images.margin, np.zeros(len(images)), images.correct
    )
    record = plain.record.model_copy(update={"certification": None, "model": sample_model(lipschitz=None)})
    page = Page(render_run_page(Run(record, bare, plain.attacks, plain.run_info)))
    assert "The model was not attacked" in page.words
    assert "Certificate: none" in page.words
    assert page.data["curves"]["series"] == []
    assert "radii" not in page.data


def test_an_asserted_bound_is_shown_as_one():
    run = as_run(sample_run())
    certification = run.record.certification.model_copy(update={"asserted": ("head (Head: 2.0)",)})
    record = run.record.model_copy(update={"certification": certification})
    page = Page(render_run_page(Run(record, run.images, run.attacks, run.run_info)))
    assert "real, asserted" in page.words
    assert "Asserted, not provedhead (Head: 2.0)" in page.words


def test_the_libraries_are_those_that_the_table_names():
    folder = files("timm_lipschitz.leaderboard.site") / "vendor"
    rows = re.findall(r"^\| `([\w.-]+\.js)` .*`([0-9a-f]{64})` \|$", (folder / "README.md").read_text(), re.MULTILINE)
    scripts = sorted(path.name for path in folder.iterdir() if path.name.endswith(".js"))
    assert sorted(name for name, _ in rows) == scripts
    for name, digest in rows:
        content = (folder / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == digest
        assert b"</script" not in content.lower()  # it is inlined in pages that stand alone
        assert b"<!--" not in content


def test_a_page_without_a_certificate_speaks_of_none():
    words = Page(render_run_page(as_run(sample_run(300, 50).with_record(certification=None)))).words
    assert "nothing is proved" in words
    for claim in ("Rank 1", "Dot: certified", "quartile", "between its certified radius"):
        assert claim not in words


def test_weights_that_are_not_published_come_with_the_command_that_trains_them(tmp_path, site):
    folder = sample_model(name="local-dir:runs/mine")
    add_run(tmp_path, tmp_path / "boards", sample_run(40, 20, record_id="mine.mnist", model=folder))
    build_site(tmp_path / "boards", tmp_path / "out")
    words = pages(tmp_path / "out")["models/mnist/mine.mnist.html"].words
    assert "The weights are not published." in words
    assert "timm-lipschitz train sandwich_cnn --data mnist" in words
    assert "not published" not in pages(site)["models/mnist/sandwich_cnn.mnist.html"].words


def test_what_an_earlier_site_wrote_and_this_one_does_not_is_removed_and_nothing_else(tmp_path):
    boards, out = tmp_path / "boards", tmp_path / "out"
    for number in (1, 2):
        add_run(tmp_path, boards, sample_run(40, 20, number, record_id=f"run-{number}"))
    build_site(boards, out)
    (out / "CNAME").write_text("robust.example")
    (tmp_path / "outside.txt").write_text("kept")
    with open(out / "files.txt", "a") as listed:
        listed.write("../outside.txt\n" + str(tmp_path / "outside.txt") + "\n")
    for path in boards.rglob("run-2.*"):
        path.unlink()
    before = {path for path in out.rglob("*") if path.is_file()}
    build_site(boards, out)
    gone = {path.relative_to(out).as_posix() for path in before if not path.exists()}
    assert gone == {"models/mnist/run-2.html", *(f"records/mnist/run-2{end}" for end in ENDS)}
    assert (out / "CNAME").exists()
    assert (tmp_path / "outside.txt").exists()


def test_every_column_says_whether_it_is_proved_or_attacked(site):
    """A heading over a group of columns scrolls out of view, and what is attacked would pass for certified."""
    page = (site / "datasets" / "mnist.html").read_text()
    heads = re.findall(r"<th scope=\"col\"[^>]*>([^<]*)<br>(L[^<]*)</th>", page)
    assert {kind.strip() for kind, _ in heads} == {"Certified", "Attacked"}
    assert "colgroup" not in page
