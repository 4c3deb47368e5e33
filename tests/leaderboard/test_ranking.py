from hashlib import sha256

import numpy as np
from records.sample_runs import Sample, sample_run

from timm_lipschitz.leaderboard import primary_threat_model
from timm_lipschitz.leaderboard.entries import Entry
from timm_lipschitz.leaderboard.ranking import rank
from timm_lipschitz.records import AttackTable, Figure, ImageTable, Run, Selection, summarize
from timm_lipschitz.threat_model import ThreatModel


def entry(record_id: str, radii: list[float], correct: int | None = None, size: int | None = None, **changes) -> Entry:
    """An entry with these radii; zeros are wrong images, but for the first ``correct`` ones."""
    radius = np.array(radii)
    right = (radius > 0) | (np.arange(len(radii)) < (correct or 0))
    label = np.zeros(len(radii), int)
    images = ImageTable(
        index=np.arange(len(radii)),
        label=label,
        prediction=np.where(right, 0, 1),
        margin=np.where(right, radius + len(record_id) * 1e-3 + ord(record_id[-1]) * 1e-6, -1.0),  # of its own
        radius=radius,
        correct=right,
    )
    run = sample_run(attacks=())
    names = changes.pop("threat_models", ("l2:36/255", "l2:1.0", "l2:1.58"))
    results = summarize(images, AttackTable.empty(), [ThreatModel.parse(name) for name in names], 784)
    dataset = run.record.dataset
    if size:
        dataset = dataset.model_copy(update={"size": size, "evaluated": Selection.first(len(radii), size)})
    model = run.record.model.model_copy(update={"weights_sha256": sha256(record_id.encode()).hexdigest()})
    changes |= {"id": record_id, "results": results, "dataset": dataset, "model": model}
    record = run.record.model_copy(update=changes)
    return Entry(Run(record, images, AttackTable.empty(), run.run_info), f"{record_id}.json")


def order(*entries: Entry) -> list[tuple[int | None, str]]:
    return [(row.rank, row.entry.run.record.id) for row in rank("mnist", entries).rows]


def test_the_primary_eps_decides_before_all_others():
    strong = entry("strong", [2.0, 0.0, 0.0, 0.0])
    wide = entry("wide", [1.5, 1.5, 1.5, 1.5])
    assert order(wide, strong) == [(1, "strong"), (2, "wide")]


def test_ties_go_to_the_next_eps_then_to_clean_then_share_a_rank():
    at_one = entry("at-one", [2.0, 1.2, 0.0, 0.0])
    at_small = entry("at-small", [2.0, 0.5, 0.5, 0.5])
    clean = entry("clean", [2.0, 0.5, 0.5, 0.0], correct=4)
    less = entry("less", [2.0, 0.5, 0.5, 0.0])
    same = entry("another", [2.0, 0.5, 0.5, 0.0])
    expected = [(1, "at-one"), (2, "at-small"), (3, "clean"), (4, "another"), (4, "less")]
    assert order(less, clean, same, at_small, at_one) == expected
    assert order(at_one, same, at_small, clean, less) == expected


def test_a_larger_eps_breaks_ties_before_a_smaller_one():
    names = ("l2:1.0", "l2:1.58", "l2:2.0")
    far = entry("far", [2.5, 0.5, 0.5], threat_models=names)
    near = entry("near", [1.6, 1.2, 1.2], threat_models=names)
    assert order(near, far) == [(1, "far"), (2, "near")]


def test_a_part_of_the_split_gets_no_rank_and_comes_last():
    part = entry("part", [3.0], size=40)
    whole = entry("whole", [0.0, 0.0])
    assert order(part, whole) == [(1, "whole"), (None, "part")]


def test_an_entry_without_a_certificate_ranks_behind_those_with_one():
    plain = entry("plain", [0.0, 0.0], correct=2, certification=None)
    weak = entry("weak", [1.6, 0.0])
    board = rank("mnist", [plain, weak])
    assert [row.entry.run.record.id for row in board.rows] == ["weak", "plain"]
    assert board.rows[1].certified == {}


def test_certified_accuracy_comes_from_the_radii_at_every_column():
    """One record names l2:1.0 only, the other l2:0.5 only: both have figures there and at the primary one."""
    first = entry("first", [2.0, 0.7, 0.0], threat_models=("l2:1.0",))
    second = entry("second", [0.6, 0.6, 0.6], threat_models=("l2:0.5",))
    board = rank("mnist", [first, second])
    assert [str(model) for model in board.certified_columns] == ["l2:0.5", "l2:1.0", "l2:1.58"]
    figures = {row.entry.run.record.id: [row.certified[m] for m in board.certified_columns] for row in board.rows}
    assert figures["first"] == [Figure.of(2, 3), Figure.of(1, 3), Figure.of(1, 3)]
    assert figures["second"] == [Figure.of(3, 3), Figure.of(0, 3), Figure.of(0, 3)]


def test_recomputed_certified_figures_equal_the_recorded_ones():
    run: Sample = sample_run()
    row = rank("mnist", [Entry(Run(run.record, run.images, run.attacks, run.run_info), "x.json")]).rows[0]
    for figures in run.record.results.threat_models:
        assert row.certified[ThreatModel.parse(figures.threat_model)] == figures.certified


def test_primary_threat_models():
    assert str(primary_threat_model("mnist")) == "l2:1.58"
    assert str(primary_threat_model("cifar10_jpeg")) == "l2:36/255"
