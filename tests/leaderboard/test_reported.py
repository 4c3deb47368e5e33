"""Published figures: a schema of their own, refused where they contradict themselves, and never ranked."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from leaderboard.boards import HOSTILE, add_run
from records.sample_runs import sample_run

from timm_lipschitz.errors import RecordError
from timm_lipschitz.leaderboard import build, build_site, check, load_reported

ROOT = Path(__file__).parents[2] / "leaderboards"
FILE: dict[str, Any] = {
    "schema_version": 1,
    "source": {
        "authors": "Doe et al.",
        "title": "Layers",
        "venue": "ICML",
        "year": 2023,
        "url": "https://arxiv.org/abs/2301.00001",
        "compared": True,
    },
    "rows": [
        {
            "model": "layer L",
            "dataset": "mnist",
            "clean": 97.0,
            "certified": {"l2:36/255": 95.5, "l2:1.58": 62.8},
            "attacked": {"l2:36/255": 95.9},
            "attack": "AutoAttack",
            "parameters_millions": 1.5,
            "where": "table 1",
        }
    ],
}


def write(folder: Path, name: str = "doe_2023.json", **changes: Any) -> Path:
    """A folder with one file, a row of which has ``changes``."""
    data = copy.deepcopy(FILE)
    data["rows"][0] |= changes
    return write_file(folder, data, name)


def write_file(folder: Path, data: Any, name: str = "doe_2023.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(data))
    return folder


def test_rows_carry_their_figures_and_their_source(tmp_path: Path) -> None:
    (row,) = load_reported(write(tmp_path / "reported"))
    assert (row.model, row.dataset, row.clean, row.where) == ("layer L", "mnist", 97.0, "table 1")
    assert row.certified == {"l2:36/255": 95.5, "l2:1.58": 62.8}
    assert (row.source.authors, row.source.url) == ("Doe et al.", "https://arxiv.org/abs/2301.00001")


def test_no_folder_has_no_rows(tmp_path: Path) -> None:
    assert load_reported(tmp_path / "reported") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clean": 95.0}, "grows with eps"),
        ({"certified": {"l2:36/255": 60.0, "l2:1.58": 62.8}}, "grows with eps"),
        ({"certified": {"l2:36/255": 96.0}}, "more is certified at l2:36/255 than an attack leaves"),
        ({"certified": {"l2:36/255": 101.0}}, "less than or equal to 100"),
        ({"certified": {"l2:0.14": "95"}}, "valid number"),
        ({"certified": {"36/255": 95.0}}, "not a threat model"),
        ({"certified": {"l2:12/85": 95.0}}, "write the threat model as 'l2:36/255'"),
        ({"attack": None}, "come together"),
        ({"attacked": {}}, "come together"),
        ({"clean": None, "certified": {}, "attacked": {}, "attack": None}, "has no figure"),
        ({"tightness": 99.0}, "needs the bound"),
        ({"slope": 9.4}, "needs the bound"),
        ({"slope": 10.4, "lipschitz": 10.0}, "a slope of 10.4 exceeds the bound of 10.0"),
        ({"tightness": 100.5, "lipschitz": 1.0}, "less than or equal to 100"),
        ({"seconds_per_epoch": 3.0}, "seconds per epoch and the hardware come together"),
        ({"clean": True}, "valid number"),
        ({"rank": 1}, "Extra inputs are not permitted"),
        ({"dataset": "../mnist"}, "not safe"),
        ({"source": FILE["source"]}, "given once"),
    ],
)
def test_rows_that_contradict_the_schema_or_themselves_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecordError, match=message):
        load_reported(write(tmp_path, **changes))


@pytest.mark.parametrize(
    "url", ["http://arxiv.org/abs/1", "javascript:alert(1)", "https://a.example/x y", "https://a.example/)[x](y", ""]
)
def test_addresses_other_than_https_are_refused(tmp_path: Path, url: str) -> None:
    data = copy.deepcopy(FILE)
    data["source"]["url"] = url
    with pytest.raises(RecordError, match=r"source\.url"):
        load_reported(write_file(tmp_path, data))


@pytest.mark.parametrize("data", [{}, [], {**FILE, "schema_version": 2}, {**FILE, "rows": []}, {**FILE, "rows": [1]}])
def test_files_without_the_schema_are_refused(tmp_path: Path, data: Any) -> None:
    with pytest.raises(RecordError, match=r"doe_2023\.json"):
        load_reported(write_file(tmp_path, data))


def test_a_figure_given_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(RecordError, match=r"'layer L' on mnist is there twice, in doe_2023\.json too"):
        load_reported(write(tmp_path, "second.json", clean=96.0))


def test_stray_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(RecordError, match=r"notes\.txt belongs to no source"):
        load_reported(tmp_path)


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "reported").symlink_to(write(tmp_path / "elsewhere"))
    with pytest.raises(RecordError, match="is not a folder"):
        load_reported(tmp_path / "reported")


@pytest.fixture
def board(tmp_path: Path) -> Path:
    root = tmp_path / "leaderboards"
    root.mkdir()
    add_run(tmp_path, root, sample_run(count=300, attacked=50, seed=0, record_id="sandwich_cnn.mnist"))
    return root


def test_published_figures_stand_apart_and_have_no_rank(board: Path) -> None:
    build(board)
    before = (board / "mnist" / "README.md").read_text()
    write(board / "reported")
    write(board / "reported", "other.json", dataset="cifar10")
    assert board / "reported" / "README.md" in build(board)
    after = (board / "mnist" / "README.md").read_text()
    measured, reported = after.split("## Reported elsewhere")
    assert measured.rstrip() == before.rstrip()
    assert "layer L" not in measured
    row = (
        "| layer L | 97.0 | 95.5 | 62.8 | 95.9 | 1.5M | [Doe et al., 2023](https://arxiv.org/abs/2301.00001), table 1 |"
    )
    assert row in reported
    assert "attacked by AutoAttack" in reported
    everything = (board / "reported" / "README.md").read_text()
    assert everything.index("## cifar10") < everything.index("## mnist")
    assert check(board).entries == 1
    assert "layer L" not in (board / "mnist" / "leaderboard.csv").read_text()


def test_check_finds_damaged_rows_and_stale_tables(board: Path) -> None:
    write(board / "reported")
    build(board)
    write(board / "reported", clean=98.0)
    with pytest.raises(
        RecordError, match=r"(?s)2 problem.*reported/README\.md is out of date.*mnist/README\.md is out"
    ):
        check(board)
    write(board / "reported", clean=1.0)
    with pytest.raises(RecordError, match="grows with eps"):
        check(board)


def test_no_data_set_is_called_reported(tmp_path: Path, board: Path) -> None:
    run = sample_run(count=8, attacked=4, seed=1)
    dataset = run.record.dataset.model_copy(update={"name": "reported"})
    run = type(run)(run.record.model_copy(update={"dataset": dataset}), run.images, run.attacks, run.run_info)
    with pytest.raises(RecordError, match="cannot be called 'reported'"):
        add_run(tmp_path, board, run)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_inert(tmp_path: Path, text: str) -> None:
    data = copy.deepcopy(FILE)
    data["source"] |= {"authors": text}
    data["rows"][0] |= {"model": text, "where": text, "note": text, "attack": text}
    root = tmp_path / "leaderboards"
    write_file(root / "reported", data)
    build(root)
    _, _, row = [line for line in (root / "reported" / "README.md").read_text().splitlines() if line.startswith("| ")]
    assert "<" not in row
    assert row.count(" | ") == 7  # eight cells: no bar of the text's own
    assert row.count("](") == 1
    assert "](https://arxiv.org/abs/2301.00001)" in row


def test_slopes_have_columns_of_their_own(board: Path) -> None:
    changes = {"clean": None, "certified": {}, "attacked": {}, "attack": None, "lipschitz": 10.0, "tightness": 94.0}
    write(board / "reported", dataset="square_wave", **changes)
    build(board)
    text = (board / "reported" / "README.md").read_text()
    assert "| Model | Bound | Steepest slope, % of the bound | Parameters | Source | Note |" in text
    assert "| layer L | 10 | 94 | 1.5M |" in text


def test_seconds_per_epoch_stand_with_their_hardware(board: Path) -> None:
    write(board / "reported", seconds_per_epoch=19.0, hardware="NVIDIA RTX A5000")
    build(board)
    text = (board / "reported" / "README.md").read_text()
    assert "Attacked l2:36/255 | Seconds per epoch | Parameters |" in text
    assert "| 95.9 | 19 | 1.5M |" in text
    assert "trained on NVIDIA RTX A5000" in text
    page = (build_site(board, board.parent / "site").parent / "published.html").read_text()
    assert '<th scope="col" class="number wraps">Seconds per epoch</th>' in page
    assert '<td class="number">19</td>' in page


# Of the paper, table 2: clean, AutoAttack at 36, 72, 108 over 255, millions of parameters, seconds per epoch.
TABLE_2 = {
    "cifar100": """
        AOL small 30.4 25.1 21.1 17.6 3 18        AOL medium 31.1 25.9 21.7 18.2 12 21
        AOL large 31.6 26.5 22.2 18.7 48 73       orthogonal small 48.7 38.6 30.6 24.0 3 20
        orthogonal medium 51.1 41.4 33.0 26.4 12 22  orthogonal large 52.2 42.5 34.3 27.4 48 55
        SLL small 52.9 41.9 32.9 25.5 41 29       SLL medium 53.8 43.1 33.9 26.6 78 52
        SLL large 54.8 44.0 34.9 27.6 118 121     sandwich small 54.2 44.3 35.5 28.4 3 19
        sandwich medium 56.5 47.1 38.6 31.5 12 23 sandwich large 57.5 48.5 40.2 32.9 48 78""",
    "tiny_imagenet": """
        AOL small 17.4 15.1 13.1 11.3 11 62       AOL medium 16.8 14.6 12.7 11.0 43 270
        orthogonal small 29.7 24.4 20.1 16.4 11 57  orthogonal medium 30.9 26.0 21.5 17.7 43 89
        SLL small 29.3 23.5 18.6 14.7 165 203     SLL medium 30.3 24.6 19.8 15.7 314 363
        sandwich small 34.7 29.3 24.6 20.5 10 60  sandwich medium 35.0 29.9 25.3 21.4 37 139""",
}
TABLE_1 = {
    "AOL": (77.2, 45.2, 47.9),
    "orthogonal": (74.1, 72.8, 64.5),
    "SLL": (99.9, 90.5, 67.9),
    "sandwich": (99.9, 99.3, 94.0),
}
TABLE_3 = {  # clean, certified at 36/255
    ("cifar100", "SLL small"): (44.9, 34.7),
    ("cifar100", "SLL xlarge"): (46.5, 36.5),
    ("cifar100", "sandwich"): (46.3, 35.3),
    ("tiny_imagenet", "SLL small"): (26.6, 19.5),
    ("tiny_imagenet", "SLL xlarge"): (32.1, 23.0),
    ("tiny_imagenet", "sandwich"): (33.4, 24.7),
}


def test_every_figure_of_the_paper_is_there() -> None:
    rows = [row for row in load_reported(ROOT / "reported") if row.source.url.endswith("2301.11526")]
    place = {where: [row for row in rows if row.where == where] for where in {row.where for row in rows}}
    assert set(place) == {"table 1", "figure 3", "table 2", "table 3"}
    assert {(r.model, r.lipschitz): r.tightness for r in place["table 1"]} == {
        (name, gamma): value
        for name, values in TABLE_1.items()
        for gamma, value in zip((1.0, 5.0, 10.0), values, strict=True)
    }
    assert {r.model: (r.lipschitz, r.slope) for r in place["figure 3"]} == {
        "AOL": (10.0, 4.8),
        "orthogonal": (10.0, 6.5),
        "SLL": (10.0, 6.8),
        "sandwich": (10.0, 9.4),
    }
    expected = {}
    for dataset, text in TABLE_2.items():
        words = text.split()
        for start in range(0, len(words), 8):
            expected[dataset, " ".join(words[start : start + 2])] = tuple(map(float, words[start + 2 : start + 8]))
    assert {
        (r.dataset, r.model): (r.clean, *r.attacked.values(), r.parameters_millions, r.seconds_per_epoch)
        for r in place["table 2"]
    } == expected
    for row in place["table 2"]:
        assert list(row.attacked) == ["l2:36/255", "l2:72/255", "l2:108/255"]
        assert (row.attack, row.hardware) == ("AutoAttack", "NVIDIA RTX A5000")
        assert row.lipschitz == (2.0 if row.dataset == "cifar100" else 1.0)
    assert {(r.dataset, r.model): (r.clean, r.certified["l2:36/255"]) for r in place["table 3"]} == TABLE_3


def test_the_repositorys_rows_are_in_order() -> None:
    rows = load_reported(ROOT / "reported")
    assert len(rows) > 40
    papers = {row.dataset: row for row in rows if row.model == "sandwich small"}
    assert papers["cifar100"].attacked == {"l2:36/255": 44.3, "l2:72/255": 35.5, "l2:108/255": 28.4}
    assert papers["tiny_imagenet"].clean == 34.7
    assert {"cifar10", "cifar100", "tiny_imagenet", "imagenet", "mnist", "square_wave"} == {row.dataset for row in rows}
