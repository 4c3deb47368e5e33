"""What may enter a leaderboard, and what `check` finds there."""

import itertools
import json
import os
import shutil
import signal
from dataclasses import replace
from hashlib import sha256
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from evaluation.small_runs import die_at
from leaderboard.boards import add_run, write
from records.sample_runs import Sample, sample_model, sample_run, sample_run_info

from timm_lipschitz.errors import RecordError, RunDirectoryError
from timm_lipschitz.leaderboard import add, build, check
from timm_lipschitz.leaderboard.comparable import require_comparable
from timm_lipschitz.leaderboard.entries import entry_files, find_entry, load_entry, record_ids
from timm_lipschitz.records import AttackTable, Examples, Run, RunBytes, RunFiles, Selection


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "leaderboards"
    add_run(tmp_path, root, sample_run())
    build(root)
    return root


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_add_copies_the_four_files_unchanged(tmp_path):
    run_dir = write(tmp_path / "run", sample_run())
    record = add(run_dir, tmp_path / "board")
    assert record == tmp_path / "board" / "mnist" / "sandwich_cnn.mnist.json"
    assert contents(record.parent) == {
        "sandwich_cnn.mnist.json": (run_dir / "record.json").read_bytes(),
        "sandwich_cnn.mnist.images.parquet": (run_dir / "images.parquet").read_bytes(),
        "sandwich_cnn.mnist.attacks.parquet": (run_dir / "attacks.parquet").read_bytes(),
        "sandwich_cnn.mnist.run.json": (run_dir / "run.json").read_bytes(),
    }


def with_examples(folder: Path, run: Sample, examples: Examples) -> Path:
    """A run directory with these examples, whose hash its record states, and nobody else's."""
    write(folder, run)
    (folder / "examples.safetensors").write_bytes(examples.to_bytes())
    record = json.loads((folder / "record.json").read_text())
    record["tables"]["examples_sha256"] = sha256(examples.to_bytes()).hexdigest()
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def pictured(run: Sample, chosen: list[int], step: float, shade: float = 0.5) -> Examples:
    """Grey images, whose points are lighter by ``step`` and of the next class."""
    image = np.full((len(chosen), 1, 28, 28), shade, np.float32)
    point = image + np.float32(step)
    return Examples(np.array(chosen), image, point, (run.images.label[chosen] + 1) % 10)


def test_examples_that_contradict_the_tables_are_refused(tmp_path):
    run = sample_run()
    first = int(np.argmax(run.images.correct & (run.images.radius < 0.5)))
    examples = pictured(run, [first], 1 / 32)
    attacks = AttackTable.of_attack([first], "l2:1.0", "autoattack", ["broken"], np.array([28 / 32]))
    examples.check(run.record.model, run.images, attacks)
    run_dir = with_examples(tmp_path / "run", run, examples)
    with pytest.raises(RecordError, match=f"examples: image {first} has a point"):  # not that of the run's own tables
        add(run_dir, tmp_path / "board")
    assert not (tmp_path / "board").exists()


def test_pictures_refute_certificates_that_cannot_be_true():
    """Images, or a point of one, of another class within a certified radius: the pictures alone show it."""
    run = sample_run()
    sure = np.flatnonzero(run.images.radius > 1.0)
    labels = run.images.label[sure]
    one, other = int(sure[0]), int(sure[np.argmax(labels != labels[0])])
    for examples in (pictured(run, [one], 1 / 32), pictured(run, sorted([one, other]), 1 / 4)):
        with pytest.raises(RecordError, match=r"the certified radius \S+ of image \d+ cannot be true: image \d+ or"):
            examples.check(run.record.model, run.images, run.attacks)


def test_the_same_run_again_is_kept_once(tmp_path, root):
    """Figures and settings are the same; host and times of the second are not looked at."""
    before = contents(root / "mnist")
    again = replace(sample_run(), run_info=sample_run_info(host="elsewhere"))
    assert add(write(tmp_path / "again", again), root) == root / "mnist" / "sandwich_cnn.mnist.json"
    assert contents(root / "mnist") == before


def test_another_run_of_the_same_name_is_refused(tmp_path, root):
    before = contents(root / "mnist")
    with pytest.raises(RecordError, match=r"holds another run \(differs in .*results, tables\)"):
        add(write(tmp_path / "other", sample_run(seed=5)), root)
    assert contents(root / "mnist") == before


def of_other_data(record_id: str, **changes: object) -> Sample:
    run = sample_run(record_id=record_id)
    return run.with_record(dataset=run.record.dataset.model_copy(update=changes))


def test_a_run_on_other_images_is_not_ranked_beside_the_others(tmp_path, root):
    run_dir = write(tmp_path / "other", of_other_data("other", content_sha256="c" * 64))
    with pytest.raises(RecordError, match=r"mnist/other was measured on other images .* than .*sandwich_cnn"):
        add(run_dir, root)
    assert not (root / "mnist" / "other.json").exists()

    entry_files(root, "mnist", "other").write(read_bytes(run_dir))  # by hand
    for command in (build, check):
        with pytest.raises(RecordError, match=r"was measured on other images"):
            command(root)


def test_a_split_has_one_size(tmp_path, root):
    run_dir = write(tmp_path / "other", sample_run(20, 10, 1, 20, "other"))
    with pytest.raises(RecordError, match=r"mnist/other says that the split has 20 images, .* says 40, with the same"):
        add(run_dir, root)
    assert not (root / "mnist" / "other.json").exists()


def test_entries_of_the_same_images_have_the_same_labels_classes_and_size(root):
    run = sample_run(40, 20, 1, 40, "other")
    known = load_entry(root, "mnist", record_ids(root, "mnist")[0]).run
    run = run.with_record(model=known.record.model)
    wrong = replace(run.images, label=(run.images.label + 1) % 10, prediction=(run.images.prediction + 1) % 10)
    with pytest.raises(RecordError, match=r"mnist/other: image 0 has the label \d, and \d in another entry"):
        require_comparable([known, Run(run.record, wrong, run.attacks, run.run_info)])
    for change, message in (
        ({"num_classes": 1000}, "mnist/other says that its network has 1000 classes, .* says 10"),
        ({"input_size": (3, 28, 28)}, r"its network takes images of \(3, 28, 28\), .* says \(1, 28, 28\)"),
        ({"parameters": 1}, "mnist/other states parameters 1, .* states 3000000, of the same model"),
        ({"lipschitz": 0.5}, r"mnist/other states lipschitz 0\.5, .* states 1\.0, of the same model"),
    ):
        record = run.record.model_copy(update={"model": run.record.model.model_copy(update=change)})
        with pytest.raises(RecordError, match=message):
            require_comparable([known, Run(record, known.images, run.attacks, run.run_info)])


def as_other(run: Run, **columns: object) -> Run:
    """A second evaluation of the same weights, with some columns of its images changed, and no attacks."""
    images = replace(run.images, **columns)
    record = run.record.model_copy(update={"id": "other"})
    return Run(record, images, AttackTable.empty(), run.run_info)


def test_runs_of_the_same_weights_agree_about_every_image(root):
    """Or one of them is made up: predictions, margins, and no example of one in a certified ball of the other."""
    known = load_entry(root, "mnist", record_ids(root, "mnist")[0]).run
    require_comparable([known, as_other(known, margin=known.images.margin * (1 + 1e-9))])
    shifted = known.images.margin.copy()
    shifted[3] += 1e-3
    with pytest.raises(RecordError, match=r"mnist/other: image 3 has prediction \d and margin .* of the same model"):
        require_comparable([known, as_other(known, margin=shifted)])
    function = known.record.model.model_copy(update={"parameters": 0})
    pair = (known, as_other(known))
    unlike = [replace(run, record=run.record.model_copy(update={"model": function})) for run in pair]
    unlike[1] = replace(unlike[1], images=replace(known.images, margin=shifted))
    require_comparable(unlike)  # functions have no weights to know them by
    broken = int(known.attacks.index[np.flatnonzero(known.attacks.status == "broken")[0]])
    sure = known.images.radius.copy()
    sure[broken] = 5.0
    for order in ((0, 1), (1, 0)):
        pair = [known, as_other(known, radius=sure)]
        with pytest.raises(RecordError, match=rf"mnist/other certifies image {broken} to radius 5, and sandwich_cnn"):
            require_comparable([pair[k] for k in order])


def bounded(run: Run, **changes: object) -> Run:
    """The run with a measured bound, and its certification changed."""
    model = run.record.model.model_copy(update={"lipschitz_rigorous": 1.0 + 1e-9})
    certification = run.record.certification.model_copy(update=changes)
    return replace(run, record=run.record.model_copy(update={"model": model, "certification": certification}))


def test_certificates_of_one_bound_agree(root):
    """Larger radii for the same margins and bound are made up; smaller ones a run may say that it lowered."""
    known = bounded(load_entry(root, "mnist", record_ids(root, "mnist")[0]).run)
    sure = int(np.argmax(known.images.radius))
    radius = known.images.radius.copy()
    radius[sure] *= 1.001
    wider = bounded(as_other(known, radius=radius))
    with pytest.raises(RecordError, match=rf"certifies image {sure} to radius .*, of the same model and bound, to"):
        require_comparable([known, wider])
    require_comparable([bounded(known, lowered=1), wider])
    require_comparable([known, bounded(wider, asserted=("head (Head: 1)",))])


def test_a_point_that_only_rounding_makes_adversarial_refutes_no_other_run(root):
    known = load_entry(root, "mnist", record_ids(root, "mnist")[0]).run
    row = int(np.argmax(known.images.radius))
    flip = float(known.images.radius[row]) * 0.99
    lowered = known.images.radius.copy()
    lowered[row] = flip
    found = AttackTable.of_attack([row], "l2:1.58", "bisection", ["standing"], np.array([flip]))
    honest = replace(bounded(as_other(known, radius=lowered), lowered=1), attacks=found)
    require_comparable([bounded(known), honest])
    with pytest.raises(RecordError, match=f"mnist/sandwich_cnn.mnist certifies image {row} to radius"):
        require_comparable([bounded(known), replace(bounded(as_other(known)), attacks=found)])


def test_entries_show_one_picture_of_an_image(root):
    known = load_entry(root, "mnist", record_ids(root, "mnist")[0]).run
    first = int(np.argmax(known.images.correct))
    grey, dark = (replace(known, examples=pictured(sample_run(), [first], 1 / 32, shade)) for shade in (0.5, 0.25))
    other = replace(as_other(known, margin=known.images.margin * (1 + 1e-9)), examples=dark.examples)
    with pytest.raises(RecordError, match=f"mnist/other: the picture of image {first} is another one"):
        require_comparable([grey, other])


def test_the_same_run_under_another_name_is_refused(tmp_path, root):
    run_dir = write(tmp_path / "copy", sample_run(record_id="copy"))
    message = r"mnist/copy is the same run as sandwich_cnn\.mnist, under another name"
    with pytest.raises(RecordError, match=message):
        add(run_dir, root)
    entry_files(root, "mnist", "copy").write(read_bytes(run_dir))  # by hand
    with pytest.raises(RecordError, match=r"mnist/sandwich_cnn\.mnist is the same run as copy"):
        check(root)


def test_a_run_whose_weights_or_files_look_different_is_the_same_run(tmp_path, root):
    """Margins tell networks apart, to the last bit of forty images; a hash that somebody typed does not."""
    other = sample_run(record_id="copy", model=sample_model(weights_sha256="e" * 64))
    with pytest.raises(RecordError, match="is the same run as sandwich_cnn"):
        add(write(tmp_path / "weights", other), root)
    run_dir = write(tmp_path / "packed", sample_run(record_id="copy"))
    packed = run_dir / "images.parquet"
    pq.write_table(pq.read_table(packed), packed, compression="gzip", store_schema=False)
    record = json.loads((run_dir / "record.json").read_text())
    record["tables"]["images_sha256"] = sha256(packed.read_bytes()).hexdigest()
    (run_dir / "record.json").write_text(json.dumps(record))
    with pytest.raises(RecordError, match="is the same run as sandwich_cnn"):
        add(run_dir, root)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_run_of_another_split_is_refused(tmp_path, root, split):
    run_dir = write(tmp_path / "other", of_other_data("other", split=split))
    with pytest.raises(RecordError, match=f"the run is of the split '{split}': a leaderboard compares on 'test'"):
        add(run_dir, root)
    entry_files(root, "mnist", "other").write(read_bytes(run_dir))
    with pytest.raises(RecordError, match=f"mnist/other: the run is of the split '{split}'"):
        check(root)


@pytest.mark.parametrize("part", ["attacked", "evaluated"])
def test_images_that_somebody_chose_are_refused(tmp_path, part):
    run = sample_run(attacked=20)
    if part == "attacked":
        run = run.with_record(attacked=Selection(kind="listed", count=20))
    else:
        chosen = Selection(kind="listed", count=len(run.images))
        run = run.with_record(dataset=run.record.dataset.model_copy(update={"evaluated": chosen}))
    with pytest.raises(RecordError, match="images that somebody chose"):
        add(write(tmp_path / "run", run), tmp_path / "board")


def test_a_partial_run_is_refused(tmp_path, root):
    with pytest.raises(RecordError, match="the run is 'partial': finish it"):
        add(write(tmp_path / "partial", sample_run(status="partial", record_id="other")), root)
    assert not (root / "mnist" / "other.json").exists()


def test_a_partial_run_that_was_copied_by_hand_is_found(tmp_path, root):
    run_dir = write(tmp_path / "partial", sample_run(status="partial", record_id="other"))
    entry_files(root, "mnist", "other").write(read_bytes(run_dir))
    with pytest.raises(RecordError, match="mnist/other: the run is 'partial'"):
        build(root)
    with pytest.raises(RecordError, match="mnist/other: the run is 'partial'"):
        check(root)


def read_bytes(run_dir):
    from timm_lipschitz.records import RunFiles

    return RunFiles.of_run(run_dir).read()


def test_a_damaged_run_is_refused(tmp_path):
    run_dir = write(tmp_path / "run", sample_run())
    (run_dir / "images.parquet").write_bytes(b"x")
    with pytest.raises(RecordError, match=r"images\.parquet has SHA-256"):
        add(run_dir, tmp_path / "board")
    assert not (tmp_path / "board").exists()


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "..", "x\0y", "a" * 101, ""])
def test_unsafe_names_lead_to_no_path(tmp_path, name):
    with pytest.raises(RecordError, match="record id"):
        entry_files(tmp_path, "mnist", name)
    with pytest.raises(RecordError, match="record id"):
        entry_files(tmp_path, name, "x")


@pytest.mark.parametrize("field", ["id", "dataset"])
def test_a_record_that_points_outside_is_refused(tmp_path, field):
    run_dir = write(tmp_path / "run", sample_run())
    document = json.loads((run_dir / "record.json").read_text())
    if field == "id":
        document["id"] = "../../evil"
    else:
        document["dataset"]["name"] = "../evil"
    (run_dir / "record.json").write_text(json.dumps(document))
    with pytest.raises(RecordError, match="not safe as a file name"):
        add(run_dir, tmp_path / "board")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_symbolic_link_in_place_of_a_data_set_is_refused(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    board = tmp_path / "board"
    board.mkdir()
    (board / "mnist").symlink_to(outside)
    with pytest.raises(RecordError, match="symbolic link"):
        add(write(tmp_path / "run", sample_run()), board)
    with pytest.raises(RecordError, match="symbolic link"):
        build(board)
    assert list(outside.iterdir()) == []


def test_a_symbolic_link_in_place_of_a_record_is_refused(tmp_path, root):
    target = tmp_path / "target.json"
    record = root / "mnist" / "sandwich_cnn.mnist.json"
    record.rename(target)
    record.symlink_to(target)
    for action in (lambda: check(root), lambda: add(tmp_path / "runs" / "sandwich_cnn.mnist", root)):
        with pytest.raises(RecordError, match="symbolic links are not followed"):
            action()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "README.md").write_text("edited"), r"mnist/README\.md is out of date"),
        (lambda folder: (folder / "leaderboard.csv").unlink(), r"mnist/leaderboard\.csv is out of date"),
        (lambda folder: (folder / "notes.txt").write_text(""), r"'mnist/notes\.txt' belongs to no entry"),
        (
            lambda folder: (folder / "sandwich_cnn.mnist.images.parquet").unlink(),
            r"sandwich_cnn\.mnist\.images\.parquet is missing",
        ),
        (
            lambda folder: (folder / "sandwich_cnn.mnist.attacks.parquet").write_bytes(b"x"),
            r"mnist/sandwich_cnn\.mnist: attacks\.parquet has SHA-256",
        ),
        (lambda folder: (folder / "Capital.json").write_text("{}"), "record id 'Capital'"),
        (lambda folder: (folder / "stray.json").write_text("{}"), r"stray\.attacks\.parquet is missing"),
    ],
)
def test_check_finds_every_kind_of_disorder(root, damage, message):
    assert check(root).entries == 1
    damage(root / "mnist")
    with pytest.raises(RecordError, match=message):
        check(root)


def test_check_lists_all_problems_at_once(tmp_path, root):
    add_run(tmp_path, root, sample_run(seed=3, record_id="second"))
    build(root)
    for name in ("second", "sandwich_cnn.mnist"):
        (root / "mnist" / f"{name}.images.parquet").write_bytes(b"x")
    with pytest.raises(RecordError, match=r"2 problem\(s\)(?s:.*)mnist/sandwich_cnn(?s:.*)mnist/second"):
        check(root)


def test_an_entry_under_another_name_is_found(root):
    folder = root / "mnist"
    for suffix in (".json", ".run.json", ".images.parquet", ".attacks.parquet"):
        shutil.copy(folder / f"sandwich_cnn.mnist{suffix}", folder / f"best{suffix}")
    with pytest.raises(RecordError, match=r"mnist/best: the record calls itself mnist/sandwich_cnn\.mnist"):
        check(root)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(RecordError, match="is not a folder"):
        build(tmp_path / "nowhere")


def test_unfinished_files_of_a_killed_process_do_not_disturb(tmp_path, root):
    leftover = root / "mnist" / ".0123456789abcdef.tmp"
    leftover.write_bytes(b"half")
    assert check(root).entries == 1
    add_run(tmp_path, root, sample_run(seed=3, record_id="second"))
    assert not leftover.exists()
    leftover.write_bytes(b"half")
    build(root)
    assert not leftover.exists()


def add_until_killed(run_dir: Path, root: Path, at: int) -> None:
    """Adds a run and dies by SIGKILL at the ``at``-th change to the file system."""
    die_at(root, at)
    add(run_dir, root)


def test_killed_at_any_moment_add_disturbs_no_other_entry_and_is_repeated(tmp_path, root):
    run_dir = write(tmp_path / "run", sample_run(seed=3, record_id="second"))
    third = write(tmp_path / "third", sample_run(seed=4, record_id="third"))
    expected = contents_of(RunFiles.of_run(run_dir).read())
    processes = get_context("fork")
    unfinished = 0
    for at in itertools.count(1):
        folder = tmp_path / f"killed-{at}"
        shutil.copytree(root, folder)
        process = processes.Process(target=add_until_killed, args=(run_dir, folder, at))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        assert find_entry(folder, "mnist/sandwich_cnn.mnist").run.record.id == "sandwich_cnn.mnist"
        add(third, folder)
        names = {path.name for path in (folder / "mnist").iterdir()}
        parts = {f"second{suffix}" for suffix in (".json", ".run.json", ".images.parquet", ".attacks.parquet")} & names
        if 0 < len(parts) < 4:
            unfinished += 1
            for command in (build, check):
                with pytest.raises(RecordError, match=r"mnist/second: .* is missing, as after an interrupted add"):
                    command(folder)
        add(run_dir, folder)
        assert contents_of(entry_files(folder, "mnist", "second").read()) == expected
        build(folder)
        assert check(folder).entries == 3
        assert not [path for path in (folder / "mnist").iterdir() if path.name.startswith(".")]
    assert at > 15
    assert unfinished > 3


def contents_of(files: RunBytes) -> tuple[bytes, ...]:
    return files.record, files.images, files.attacks, files.run_info


def add_at_the_barrier(run_dir: Path, root: Path, barrier: Barrier) -> None:
    barrier.wait()
    try:
        add(run_dir, root)
    except RecordError:
        os._exit(7)


def test_of_two_runs_of_one_name_at_once_one_is_told(tmp_path):
    """Neither is lost without a word: one is added, the other refused."""
    run_dirs = [write(tmp_path / f"run-{seed}", sample_run(seed=seed)) for seed in (1, 2)]
    processes = get_context("fork")
    for attempt in range(10):
        root, barrier = tmp_path / f"board-{attempt}", processes.Barrier(2)
        both = [processes.Process(target=add_at_the_barrier, args=(path, root, barrier)) for path in run_dirs]
        for process in both:
            process.start()
        for process in both:
            process.join()
        assert sorted(process.exitcode for process in both) == [0, 7]
        added = load_entry(root, "mnist", "sandwich_cnn.mnist").run.record
        assert added.seed == 1 + [process.exitcode for process in both].index(0)


@pytest.mark.parametrize("number", range(1, 5))
def test_an_interrupt_behind_a_rename_leaves_nothing_half(tmp_path, root, monkeypatch, number):
    """A signal is delivered when the call returns: the file is in its place, and nobody has noted it."""
    before = contents(root / "mnist")
    run_dir = write(tmp_path / "run", sample_run(seed=3, record_id="second"))
    real, calls = os.replace, itertools.count(1)

    def interrupted(source, target):
        real(source, target)
        if next(calls) == number:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            add(run_dir, root)
    assert contents(root / "mnist") == before
    add(run_dir, root)


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_what_is_no_file_in_the_place_of_a_table_is_not_touched(tmp_path, root, kind):
    """A named pipe without a writer would be waited for without end."""
    table, outside = root / "mnist" / "README.md", tmp_path / "outside"
    table.unlink()
    outside.write_text("kept")
    {"pipe": lambda: os.mkfifo(table), "link": lambda: table.symlink_to(outside), "folder": table.mkdir}[kind]()
    with pytest.raises(RunDirectoryError, match=r"README\.md.*; it is in the way of a file"):
        build(root)
    assert outside.read_text() == "kept"
