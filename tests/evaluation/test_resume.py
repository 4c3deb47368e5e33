"""A run directory survives SIGKILL, failing writes, damage and company, and the record is the same, byte for byte."""

import errno
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

import pytest
import torch
from evaluation.small_runs import (
    contents,
    events,
    labelled_as_predicted,
    run_as_rank,
    run_in_a_job,
    run_until_killed,
    run_with_file_limit,
    sandwich,
    small_run,
)
from torch import nn

from timm_lipschitz.errors import DamagedChunkError, RecordError, RunDirectoryError
from timm_lipschitz.evaluation import _lock, evaluate
from timm_lipschitz.evaluation._lock import locked
from timm_lipschitz.evaluation._ranks import Ranks
from timm_lipschitz.evaluation.attacking import Attacker
from timm_lipschitz.layers import ContractionHead, Flatten, LipschitzSequential, SandwichLinear
from timm_lipschitz.records import _files, read_run, software_versions

KILLS = 30


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    small_run(folder)
    return folder


def test_a_finished_run_holds_one_chunk_a_batch_and_no_leftovers(undisturbed: Path) -> None:
    names = sorted(path.name for path in (undisturbed / "chunks").iterdir())
    assert names[-2:] == [f"certified-{number:05d}.chunk" for number in range(2)]
    assert {name[:2] for name in names} == {"00", "01", "ce"}
    assert any("-audit-" in name for name in names)
    assert len(names) > 12
    assert not list(undisturbed.rglob("*.tmp"))


def test_killed_at_thirty_moments(undisturbed: Path, tmp_path: Path, forkserver: BaseContext) -> None:
    """Runs are killed at random changes to the file system, several times each, until they come through."""
    moments, kills, runs = random.Random(0), 0, 0
    while kills < KILLS:
        folder = tmp_path / f"run-{runs}"
        folder.mkdir()
        runs += 1
        while kills < KILLS:
            process = forkserver.Process(target=run_until_killed, args=(folder, moments.randint(1, 60)))
            process.start()
            process.join()
            if process.exitcode == 0:
                break
            assert process.exitcode == -signal.SIGKILL
            kills += 1
        small_run(folder, resume=True)
        assert contents(folder) == contents(undisturbed)
        assert not list(folder.rglob("*.tmp"))
        assert len((folder / "log.jsonl").read_text().splitlines()) >= len(read_run(folder).run_info.sessions) > 0


def test_at_most_one_batch_is_computed_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attacked: list[str] = []
    original = Attacker.attack

    def counting(self, unit, progress):
        attacked.append(unit.name)
        if len(attacked) == 4:
            raise KeyboardInterrupt
        return original(self, unit, progress)

    monkeypatch.setattr(Attacker, "attack", counting)
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path)
    small_run(tmp_path, resume=True)
    twice = [name for name in set(attacked) if attacked.count(name) > 1]
    assert twice == [attacked[3]]


@pytest.mark.parametrize("number", [0, 1, 2, 7, -4, -1])
def test_the_nth_write_fails(number: int, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-th file cannot be written, counted from the end where negative: an error, and the rest stays."""
    stage, calls = _files._stage, 0
    writes = 1 + 1 + len(list((undisturbed / "chunks").iterdir())) + 4  # a test of the folder, manifest, chunks, record

    def failing(path: Path, data: bytes) -> Path:
        nonlocal calls
        calls += 1
        if calls - 1 == number % writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        return stage(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(_files, "_stage", failing)
        with pytest.raises(RunDirectoryError, match="No space left"):
            small_run(tmp_path)
    small_run(tmp_path, resume=True)
    assert contents(tmp_path) == contents(undisturbed)


def test_a_full_disk_in_a_real_process(undisturbed: Path, tmp_path: Path, forkserver: BaseContext) -> None:
    """No file may grow beyond a few hundred bytes, then beyond a few thousand: both end as an error, not as damage."""
    for size in (300, 3000):
        process = forkserver.Process(target=run_with_file_limit, args=(tmp_path, size))
        process.start()
        process.join()
        assert process.exitcode == 7
    small_run(tmp_path, resume=True)
    assert contents(tmp_path) == contents(undisturbed)


def after_three_attacks(run_dir: Path) -> None:
    with mock.patch.object(Attacker, "attack", interrupted_after(3)), pytest.raises(KeyboardInterrupt):
        small_run(run_dir)


@pytest.mark.parametrize("kind", ["attacked", "certified"])
@pytest.mark.parametrize("damage", ["bit", "truncated", "empty", "schema"])
def test_a_damaged_chunk_is_found_before_the_next_attack(
    damage: str, kind: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_three_attacks(tmp_path)
    chunk = sorted((tmp_path / "chunks").iterdir())[0 if kind == "attacked" else -1]
    data = bytearray(chunk.read_bytes())
    if damage == "bit":
        data[len(data) // 2] ^= 1
    elif damage == "schema":  # of a version to come: the hash is right
        content = data.partition(b"\n")[2].replace(b'"schema_version": 1', b'"schema_version": 2')
        data = bytearray(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    else:
        del data[0 if damage == "empty" else -1 :]
    assert data != chunk.read_bytes()
    chunk.write_bytes(bytes(data))
    with monkeypatch.context() as patched:
        patched.setattr(Attacker, "attack", lambda *_: pytest.fail("attacked"))
        with pytest.raises(DamagedChunkError, match="Delete the file and resume") as error:
            small_run(tmp_path, resume=True)
    assert chunk.name in str(error.value)
    chunk.unlink()
    small_run(tmp_path, resume=True)
    assert contents(tmp_path) == contents(undisturbed)


def test_a_sound_chunk_is_not_read_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once to see that it is undamaged and once for the record, however often somebody asks whether it is there."""
    after_three_attacks(tmp_path)
    first = sorted((tmp_path / "chunks").iterdir())[0].name
    run_folder = importlib.import_module("timm_lipschitz.evaluation.run_folder")
    original, read = run_folder.read_chunk, []

    def counting(path: Path, *arguments):
        read.append(path.name)
        return original(path, *arguments)

    monkeypatch.setattr(run_folder, "read_chunk", counting)
    small_run(tmp_path, resume=True, on_estimate=lambda _: None)
    assert read.count(first) == 2


def test_a_chunk_of_another_run_is_refused_before_the_next_attack(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_three_attacks(tmp_path / "run")
    small_run(tmp_path / "other", seed=6)
    chunk = sorted((tmp_path / "run" / "chunks").iterdir())[0]
    shutil.copy(tmp_path / "other" / "chunks" / chunk.name, chunk)
    with monkeypatch.context() as patched:
        patched.setattr(Attacker, "attack", lambda *_: pytest.fail("attacked"))
        with pytest.raises(RunDirectoryError, match="another run") as error:
            small_run(tmp_path / "run", resume=True)
    assert chunk.name in str(error.value)
    chunk.unlink()
    small_run(tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == contents(undisturbed)


def test_a_chunk_damaged_while_the_run_lasts_is_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("timm_lipschitz.evaluation.run_work")
    merge = module.merge_certified

    def damaging(chunks):
        for path in (tmp_path / "chunks").iterdir():
            path.write_bytes(path.read_bytes()[:-1])
        return merge(chunks)

    monkeypatch.setattr(module, "merge_certified", damaging)
    with pytest.raises(DamagedChunkError, match="certified-00000"):
        small_run(tmp_path)
    assert not (tmp_path / "record.json").exists()


@pytest.mark.parametrize("kind", ["pgdl2", "certified"])
def test_a_chunk_under_another_name_is_refused(kind: str, undisturbed: Path, tmp_path: Path) -> None:
    """Its hash and its run are right, but the images of the other one would count as attacked and standing."""
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    (tmp_path / "record.json").unlink()
    first, second = sorted((tmp_path / "chunks").glob("01-pgdl2-0*" if kind == "pgdl2" else "certified-*"))[:2]
    shutil.copy(first, second)
    with pytest.raises(RunDirectoryError, match="another batch of this run") as error:
        small_run(tmp_path, resume=True)
    assert second.name in str(error.value)
    second.unlink()
    small_run(tmp_path, resume=True)
    assert contents(tmp_path) == contents(undisturbed)


def test_a_record_torn_between_two_generations_is_made_again(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partial record was there, and the process died behind the rename of the tables, before that of the record."""
    monkeypatch.setattr(Attacker, "attack", interrupted_after(9))
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path)
    monkeypatch.undo()
    assert read_run(tmp_path).record.status == "partial"
    shutil.copy(undisturbed / "attacks.parquet", tmp_path)
    with pytest.raises(RecordError, match="damaged or replaced"):
        read_run(tmp_path)
    small_run(tmp_path, resume=True)
    assert contents(tmp_path) == contents(undisturbed)


def interrupted_after(count: int):
    original, calls = Attacker.attack, 0

    def attack(self, unit, progress):
        nonlocal calls
        calls += 1
        if calls > count:
            raise KeyboardInterrupt
        return original(self, unit, progress)

    return attack


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 6}, "seed: 5 before, 6 now"),
        ({"batch_size": 4}, "batch_size: 3 before, 4 now"),
        ({"audit": 0}, "audit: 2 before, 0 now"),
        ({"limit": 10}, "dataset.evaluated"),
        ({"attack_at": ["l2:0.3"]}, "attack_at"),
    ],
)
def test_a_changed_manifest_is_refused_by_name(changed: dict, named: str, undisturbed: Path) -> None:
    before = contents(undisturbed)
    with pytest.raises(RunDirectoryError, match="holds another run") as error:
        small_run(undisturbed, resume=True, **changed)
    assert named in str(error.value)
    assert contents(undisturbed) == before


def test_changed_weights_data_code_and_versions_are_refused(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sandwich()
    images = labelled_as_predicted(model)
    arguments = {"run_dir": tmp_path, "resume": True}
    evaluate(model, images, ["l2:0.1"], **arguments)
    with torch.no_grad():
        next(model.parameters()).mul_(1.0001)
    with pytest.raises(RunDirectoryError, match=r"model\.weights_sha256"):
        evaluate(model, images, ["l2:0.1"], **arguments)
    with pytest.raises(RunDirectoryError, match=r"dataset\.content_sha256"):
        evaluate(sandwich(), labelled_as_predicted(model, wrong=3), ["l2:0.1"], **arguments)
    writing = importlib.import_module("timm_lipschitz.evaluation.writing")
    monkeypatch.setattr(writing, "_code_sha256", lambda: "0" * 64)
    monkeypatch.setattr(writing, "software_versions", lambda: {**software_versions(), "torch": "0.1"})
    with pytest.raises(RunDirectoryError) as error:
        evaluate(sandwich(), images, ["l2:0.1"], **arguments)
    assert "code_sha256" in str(error.value)
    assert f"versions.torch: {software_versions()['torch']} before, 0.1 now" in str(error.value)


def test_another_activation_on_the_same_weights_is_refused(tmp_path: Path) -> None:
    def network(activation: str) -> nn.Module:
        torch.manual_seed(0)
        layers = Flatten(), SandwichLinear(36, 8, activation=activation), ContractionHead(8, 3)
        return LipschitzSequential(*layers, in_shape=(1, 6, 6)).eval()

    images = labelled_as_predicted(network("relu"))
    evaluate(network("relu"), images, ["l2:0.1"], run_dir=tmp_path)
    evaluate(network("relu"), images, ["l2:0.1"], run_dir=tmp_path, resume=True)
    with pytest.raises(RunDirectoryError, match="structure_sha256"):
        evaluate(network("leaky_relu"), images, ["l2:0.1"], run_dir=tmp_path, resume=True)


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match=r"manifest\.json"):
        small_run(tmp_path, resume=True)


def test_a_finished_run_is_read_and_not_computed_again(undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Attacker, "attack", lambda *_: pytest.fail("attacked again"))
    stamp = (undisturbed / "run.json").read_bytes()
    (undisturbed / "chunks" / ".0123456789abcdef.tmp").touch()  # killed behind the last rename
    assert small_run(undisturbed, resume=True).record == read_run(undisturbed).record
    assert (undisturbed / "run.json").read_bytes() == stamp
    assert not list(undisturbed.rglob("*.tmp"))


def test_a_torn_line_of_the_log_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Attacker, "attack", interrupted_after(1))
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path)
    monkeypatch.undo()
    with open(tmp_path / "log.jsonl", "ab") as log:
        log.write(b'{"started": "2026-01-0')
    small_run(tmp_path, resume=True)
    assert len(read_run(tmp_path).run_info.sessions) == 2
    assert [json.loads(line)["rank"] for line in (tmp_path / "log.jsonl").read_text().splitlines()[::2]] == [0, 0]


def test_the_second_process_on_a_folder_is_refused(tmp_path: Path) -> None:
    with locked(tmp_path, Ranks()):
        with pytest.raises(RunDirectoryError, match="in use by another process"):
            small_run(tmp_path)
        with pytest.raises(RunDirectoryError, match="in use"), locked(tmp_path, Ranks(1, 2)):
            pass
    small_run(tmp_path)


def test_ranks_share_a_folder_but_not_a_rank(tmp_path: Path) -> None:
    with locked(tmp_path, Ranks(0, 2)), locked(tmp_path, Ranks(1, 2)):
        with pytest.raises(RunDirectoryError, match="rank-1 is locked"), locked(tmp_path, Ranks(1, 2)):
            pass
        with pytest.raises(RunDirectoryError, match="in use"):
            small_run(tmp_path)


def test_two_ranks_one_of_them_killed(undisturbed: Path, tmp_path: Path, forkserver: BaseContext) -> None:
    """The other's chunks stay, a restart computes what is missing, and the record is one process's."""
    folder = tmp_path / "run"
    rank_0, rank_1 = ranks_of(forkserver, folder, die_at=12)
    rank_1.join()
    assert rank_1.exitcode == -signal.SIGKILL, errors_of(tmp_path)
    own = (len(list((undisturbed / "chunks").glob("0*.chunk"))) + 1) // 2
    while len(list((folder / "chunks").glob("0*.chunk"))) < own:
        assert rank_0.exitcode is None, errors_of(tmp_path)
        time.sleep(0.05)
    rank_0.join(timeout=0.5)
    assert rank_0.exitcode is None, "rank 0 waits for what rank 1 owes"
    rank_0.terminate()  # as torchrun does
    rank_0.join()
    assert not (folder / "record.json").exists()
    finished = {path.name: path.read_bytes() for path in (folder / "chunks").glob("*.chunk")}

    ranks = ranks_of(forkserver, folder)
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0, 0], errors_of(tmp_path)
    assert contents(folder) == contents(undisturbed)
    after = {name: (folder / "chunks" / name).read_bytes() for name in finished}
    again = [name for name in finished if after[name] != finished[name]]  # a chunk holds the seconds that it took
    assert not again, "a finished chunk was computed again"


def ranks_of(forkserver: BaseContext, folder: Path, die_at: int | None = None) -> Sequence[BaseProcess]:
    """Two ranks at work on the small run, of which the second may die."""
    arguments = [(folder, rank, 2, die_at if rank else None) for rank in (0, 1)]
    ranks = [forkserver.Process(target=run_as_rank, args=of_rank) for of_rank in arguments]
    for process in ranks:
        process.start()
    return ranks


def errors_of(parent: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(parent.glob("rank-*.txt")))


@pytest.mark.parametrize("callers", [(0,), (1,), (0, 1)])
def test_every_rank_of_an_initialised_job_must_evaluate(
    callers: tuple[int, ...], tmp_path: Path, forkserver: BaseContext
) -> None:
    """One that is alone fails after some time, and says whom it has waited for; two share the run, twice in turn."""
    folder = tmp_path / "run"
    ranks = [forkserver.Process(target=run_in_a_job, args=(folder, rank, 2, callers)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [int(len(callers) == 1 and rank in callers) for rank in (0, 1)]
    if len(callers) == 2:
        assert contents(tmp_path / "run") == contents(tmp_path / "run-again")
        return
    absent = 1 - callers[0]
    said = errors_of(tmp_path)
    assert f"RunDirectoryError: rank {callers[0]} of 2 has waited 2 seconds for rank {absent} to evaluate into" in said
    assert "every one of them must call evaluate()" in said
    assert not folder.exists()


def test_the_events_of_a_run_are_seen(tmp_path: Path, forkserver: BaseContext) -> None:
    """The moments of the kill test are real ones: a run has more of them than the largest that is drawn."""
    process = forkserver.Process(target=count_events, args=(tmp_path,))
    process.start()
    process.join()
    assert int((tmp_path / "events").read_text()) > 60


def count_events(folder: Path) -> None:
    count = 0

    def step() -> None:
        nonlocal count
        count += 1

    events(step, folder / "run")
    small_run(folder / "run")
    seen = count
    (folder / "events").write_text(str(seen))
    os._exit(0)


def test_a_file_system_that_cannot_lock_is_named_and_not_taken_for_a_busy_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(_lock.fcntl, "flock", flock)
    with (
        pytest.raises(RunDirectoryError, match=r"cannot be locked \(Function not implemented\).*another file system"),
        locked(tmp_path, Ranks()),
    ):
        pass
