"""Groups of entries that differ in their seed alone: who belongs to one, and the figures of a group."""

from fractions import Fraction

import pytest
from leaderboard.boards import add_run
from records.sample_runs import Sample, sample_model, sample_run

from timm_lipschitz.leaderboard import build, build_site
from timm_lipschitz.leaderboard._cells import FOLDER_NOTE
from timm_lipschitz.leaderboard.entries import load_entry
from timm_lipschitz.leaderboard.ranking import Board, rank
from timm_lipschitz.leaderboard.seeds import first_of_seeds, seed_groups
from timm_lipschitz.records import percent_down
from timm_lipschitz.threat_model import ThreatModel


def trained(seed: int, *, weights: str | None = None, count: int = 200, record=(), training=(), model=()) -> Sample:
    """A network of that seed; one of the ``weights`` of another, evaluated again with fewer images attacked."""
    fields = {"weights_sha256": (weights or f"{seed:x}") * 64, **dict(model)}
    of, attacked = (seed, 20) if weights is None else (int(weights, 16), 10)
    run = sample_run(count, attacked, of, 200, f"net-{seed}", model=sample_model(**fields))
    assert run.record.training is not None
    changed = run.record.training.model_copy(update={"seed": seed, "data_sha256": "d" * 64, **dict(training)})
    return run.with_record(**{"training": changed, **dict(record)})


def board_of(tmp_path, *runs: Sample) -> Board:
    root = tmp_path / "leaderboards"
    root.mkdir(exist_ok=True, parents=True)
    for run in runs:
        add_run(tmp_path, root, run)
    return rank("mnist", [load_entry(root, "mnist", run.record.id) for run in runs])


def test_a_group_has_the_mean_and_the_ends_of_its_figures_rounded_down(tmp_path):
    runs = [trained(seed) for seed in (0, 1, 2)]
    board = board_of(tmp_path, *runs)
    (group,) = seed_groups(board)
    assert (group.family, group.seeds) == ("sandwich_cnn", (0, 1, 2))
    assert group.ids == ("net-0", "net-1", "net-2")
    counts = sorted(run.record.results.clean.count for run in runs)
    mean, low, high = Fraction(sum(counts), 600), Fraction(counts[0], 200), Fraction(counts[-1], 200)
    assert group.clean.mean == mean
    assert group.clean.text == f"{percent_down(mean)} ({percent_down(low)} to {percent_down(high)})"
    for column, name in enumerate(["l2:36/255", "l2:1.0", "l2:1.58"]):
        certified = sorted(run.record.results.threat_models[column].certified.count for run in runs)
        spread = group.certified[ThreatModel.parse(name)]
        assert sorted(figure.count for figure in spread.figures) == certified
        assert spread.mean == Fraction(sum(certified), 600)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"weights": "0"}, id="the same weights"),
        pytest.param({"count": 100}, id="a part of the split"),
        pytest.param({"model": {"family": "sandwich_mlp"}}, id="family"),
        pytest.param({"model": {"parameters": 1}}, id="size"),
        pytest.param({"model": {"lipschitz": 2.0}}, id="bound"),
        pytest.param({"training": {"tuned_on": "nothing"}}, id="tuned on"),
        pytest.param({"training": {"settings": {"epochs": 6}}}, id="settings"),
        pytest.param({"training": {"settings": {}}}, id="no settings"),
        pytest.param({"training": {"recipe": "mnist"}}, id="recipe"),
        pytest.param({"training": {"data_sha256": "c" * 64}}, id="training data"),
        pytest.param({"record": {"training": None}}, id="no training"),
    ],
)
def test_entries_that_differ_in_more_than_the_seed_make_no_group(tmp_path, other):
    assert len(seed_groups(board_of(tmp_path, trained(0), trained(1)))) == 1
    assert seed_groups(board_of(tmp_path, trained(0), trained(2, **other))) == []


def test_one_seed_with_two_sets_of_weights_makes_no_group(tmp_path):
    board = board_of(tmp_path, trained(0), trained(1), trained(2, training={"seed": 1}))
    assert seed_groups(board) == []


def test_networks_that_do_not_state_their_data_make_no_group(tmp_path):
    runs = [trained(seed, training={"data_sha256": None}) for seed in (0, 1)]
    assert seed_groups(board_of(tmp_path, *runs)) == []


def test_two_evaluations_of_one_network_stand_for_one(tmp_path):
    board = board_of(tmp_path, trained(0), trained(1), trained(2, weights="1", training={"seed": 1}))
    assert set(first_of_seeds(board).values()) == {"net-0"}
    alone = board_of(tmp_path / "alone", trained(3), trained(4, weights="3", training={"seed": 3}))
    first = alone.rows[0].entry.run.record.id
    assert first_of_seeds(alone) == {"net-3": first, "net-4": first}


def test_groups_are_in_the_boards_order(tmp_path):
    runs = [trained(seed, model={"family": family}) for seed, family in enumerate("aabbcc")]
    groups = seed_groups(board_of(tmp_path, *runs))
    primary = [group.certified[ThreatModel.parse("l2:1.58")].mean for group in groups]
    assert len(set(primary)) == 3
    assert primary == sorted(primary, reverse=True)


def test_networks_without_a_certificate_have_a_clean_figure_alone(tmp_path):
    runs = [trained(seed) for seed in (0, 1)]
    board = board_of(tmp_path, *runs)
    bare = [type(row)(row.entry, row.rank, {}, row.attacked) for row in board.rows]
    (group,) = seed_groups(Board(board.dataset, board.primary, board.ties, board.certified_columns, (), tuple(bare)))
    assert group.certified == {}
    assert group.clean.figures


def test_the_table_and_the_page_show_the_groups(tmp_path):
    board = board_of(tmp_path, trained(0), trained(1))
    (group,) = seed_groups(board)
    root = tmp_path / "leaderboards"
    build(root)
    cells = " | ".join(["sandwich\\_cnn", "0, 1", group.clean.text, *(s.text for s in group.certified.values())])
    assert f"| {cells} |" in (root / "mnist" / "README.md").read_text()
    build_site(root, tmp_path / "site")
    page = (tmp_path / "site" / "datasets" / "mnist.html").read_text()
    assert "Across seeds" in page
    assert all(spread.text in page for spread in (group.clean, *group.certified.values()))


def test_the_first_page_lists_each_network_once(tmp_path):
    runs = [trained(seed, model={"name": f"local-dir:net-{seed}"}) for seed in (0, 1)]
    other = trained(2, model={"family": "sandwich_mlp", "name": "local-dir:net-2"})
    board = board_of(tmp_path, *runs, other)
    ids = [row.entry.run.record.id for row in board.rows]
    assert first_of_seeds(board) == {"net-0": "net-0", "net-1": "net-0", "net-2": "net-2"}
    build_site(tmp_path / "leaderboards", tmp_path / "site")
    page = (tmp_path / "site" / "index.html").read_text()
    assert [name for name in ids if f"models/mnist/{name}.html" in page] == [name for name in ids if name != "net-1"]
    assert "All 3 entries" in page
    assert FOLDER_NOTE in page


def test_one_seed_alone_gets_no_table(tmp_path):
    board_of(tmp_path, trained(0))
    build(tmp_path / "leaderboards")
    assert "Across seeds" not in (tmp_path / "leaderboards" / "mnist" / "README.md").read_text()
