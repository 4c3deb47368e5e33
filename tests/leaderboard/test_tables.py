"""The generated Markdown and CSV: right figures, the same bytes every time, and inert whatever a record says."""

import csv
import io
import re

import pytest
from leaderboard.boards import HOSTILE, add_run, hostile_runs
from records.sample_runs import sample_model, sample_run

from timm_lipschitz.errors import RecordError, RunDirectoryError
from timm_lipschitz.leaderboard import build, check
from timm_lipschitz.records import percent_down


@pytest.fixture
def board(tmp_path):
    root = tmp_path / "leaderboards"
    root.mkdir()
    (root / "README.md").write_text("How the leaderboards work.")
    for seed, record_id in enumerate(["sandwich_cnn.mnist", "sandwich_mlp.mnist"]):
        add_run(tmp_path, root, sample_run(count=300, attacked=50, seed=seed, record_id=record_id))
    return root


def rows_of_markdown(text: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]


def test_build_writes_a_ranked_table_with_clean_certified_and_attacked_side_by_side(board):
    assert build(board) == [board / "mnist" / "README.md", board / "mnist" / "leaderboard.csv"]
    text = (board / "mnist" / "README.md").read_text()
    header, _, *rows = rows_of_markdown(text)
    assert header[:6] == ["Rank", "Model", "Clean", *(f"Certified l2:{eps}" for eps in ("36/255", "1.0", "1.58"))]
    assert header[6:9] == [f"Attacked l2:{eps}" for eps in ("36/255", "1.0", "1.58")]
    assert header[9:] == ["Parameters", "Epochs", "Images", "Time", "Certificate", "Attacks", "Record"]
    assert [row[0] for row in rows] == ["1", "2"]
    assert "Ranked by certified accuracy at l2:1.58, ties by l2:1.0, l2:36/255, clean accuracy." in text
    for row in rows:
        seed = 0 if "cnn" in row[-1] else 1
        results = sample_run(count=300, attacked=50, seed=seed).record.results
        assert row[2] == results.clean.percent
        for column, figures in enumerate(results.threat_models):
            assert row[3 + column] == percent_down(figures.certified.count / 300)
            low, high = figures.robust.interval_percent
            attacked = figures.attacks[0].attacked.count
            assert row[6 + column] == f"{figures.robust.percent} [{low}, {high}], {attacked} of 50 attacked"
        assert row[9:13] == ["3,000,000", "40", "300", "1 min 01 s"]
        link = re.fullmatch(r"\[record\]\((.*)\)", row[-1])[1]
        assert (board / "mnist" / link).is_file()


def test_weights_from_a_folder_go_by_the_id_of_their_record(board, tmp_path):
    mine = sample_run(
        count=300, attacked=50, seed=4, record_id="mine.mnist", model=sample_model(name="local-dir:runs/mine")
    )
    add_run(tmp_path, board, mine)
    build(board)
    text = (board / "mnist" / "README.md").read_text(encoding="utf-8")
    assert "| mine.mnist \N{DAGGER} |" in text
    assert "| sandwich\\_cnn.mnist |" in text
    assert "- \N{DAGGER}: weights from a folder" in text
    assert "runs/mine" not in text


def test_the_csv_holds_all_counts(board):
    build(board)
    with open(board / "mnist" / "leaderboard.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2"]
    for row in rows:
        results = sample_run(count=300, attacked=50, seed=0 if "cnn" in row["id"] else 1).record.results
        assert int(row["clean_count"]) == results.clean.count
        for figures in results.threat_models:
            name = figures.threat_model
            assert int(row[f"certified_{name}_count"]) == figures.certified.count
            assert (int(row[f"robust_{name}_count"]), row[f"robust_{name}_total"]) == (figures.robust.count, "50")
            assert row[f"robust_{name}_percent_low"] == figures.robust.interval_percent[0]
            assert int(row[f"attacked_{name}_count"]) == figures.attacks[0].attacked.count
        assert row["seconds"] == "61.0"
        assert row["record"] == f"{row['id']}.json"


def test_build_is_idempotent_and_check_accepts_what_it_wrote(board):
    paths = build(board)
    first = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in build(board)] == first
    assert check(board).entries == 2
    assert (board / "README.md").read_text() == "How the leaderboards work."


def test_an_empty_leaderboard_builds(tmp_path):
    assert build(tmp_path) == []
    assert check(tmp_path).entries == 0
    (tmp_path / "mnist").mkdir()
    build(tmp_path)
    assert "No records yet." in (tmp_path / "mnist" / "README.md").read_text()
    assert check(tmp_path).entries == 0


def test_one_broken_entry_stops_the_build_before_anything_is_written(board):
    build(board)
    before = {path: path.read_bytes() for path in (board / "mnist").iterdir()}
    record = board / "mnist" / "sandwich_mlp.mnist.json"
    before[record] = before[record].replace(b'"seed": 1', b'"seed": "1"')
    record.write_bytes(before[record])
    with pytest.raises(RecordError, match=r"mnist/sandwich_mlp\.mnist: record\.json: .*seed"):
        build(board)
    assert {path: path.read_bytes() for path in (board / "mnist").iterdir()} == before


def test_a_failing_disk_leaves_the_old_tables(board, monkeypatch):
    build(board)
    table = board / "mnist" / "README.md"
    table.write_text("old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(RunDirectoryError, match="No space left"):
        build(board)
    assert table.read_text() == "old"


@pytest.fixture(scope="module")
def hostile_board(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("hostile")
    root = tmp_path / "leaderboards"
    for run in hostile_runs():
        add_run(tmp_path, root, run)
    build(root)
    return root / "mnist"


def test_hostile_text_is_inert_in_markdown(hostile_board):
    text = (hostile_board / "README.md").read_text()
    assert "\u202e" not in text
    table = rows_of_markdown(text)
    assert len(table) == len(HOSTILE) + 2
    assert {len(row) for row in table} == {len(table[0])}
    for row in table[2:]:
        for free_text in (row[1], row[-2]):  # the model and the attacks
            assert not set(free_text) & set("<>`|:@")
            assert not re.search(r"(?<!\\)[\[\](){}*_]", free_text)
            assert "www." not in free_text
        assert re.fullmatch(r"\[record\]\(hostile-\d+\.json\)", row[-1])


def test_hostile_text_renders_as_itself_in_markdown(hostile_board):
    """Undo the escapes as a Markdown reader does: what is shown is what the record says."""
    import html

    names = {
        html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", row[1]))
        for row in rows_of_markdown((hostile_board / "README.md").read_text())[2:]
    }
    assert names == set(HOSTILE)


def test_hostile_text_is_no_formula_in_csv(hostile_board):
    rows = list(csv.reader(io.StringIO((hostile_board / "leaderboard.csv").read_text())))
    assert len(rows) == len(HOSTILE) + 1
    for row in rows[1:]:
        assert len(row) == len(rows[0])
        for cell in row:
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
            assert "\n" not in cell
