"""Full disks, unwritable folders, I/O errors and interrupts: a typed error, and the old run is intact."""

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from records.sample_runs import sample_run

from timm_lipschitz.errors import RunDirectoryError
from timm_lipschitz.records import _files, check_writable, read_run, write_atomic, write_run

FILES = ["attacks.parquet", "images.parquet", "record.json", "run.json"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def run_dir(tmp_path):
    run = sample_run(seed=1)
    write_run(tmp_path / "run", run.record, run.images, run.attacks, run.run_info)
    return tmp_path / "run"


def fail_call(monkeypatch, function: str, number: int, error: BaseException) -> None:
    """Let the ``number``-th call of an ``os`` function fail, and count calls."""
    real, calls = getattr(os, function), 0

    def wrapper(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == number:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(os, function, wrapper)


# Per function the number of calls that one write of a run over an old one makes: each of them fails once.
CALLS = {"open": 9, "fsync": 9, "replace": 4}


@pytest.mark.parametrize(("function", "number"), [(name, n + 1) for name, count in CALLS.items() for n in range(count)])
def test_a_failing_call_leaves_the_old_run_as_it_was(run_dir, monkeypatch, function, number):
    before = contents(run_dir)
    new = sample_run(seed=2)
    with monkeypatch.context() as patch:
        fail_call(patch, function, number, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(RunDirectoryError, match="No space left on device"):
            write_run(run_dir, new.record, new.images, new.attacks, new.run_info)
    assert contents(run_dir) == before
    assert read_run(run_dir).record == sample_run(seed=1).record


@pytest.mark.parametrize("number", range(1, 5))
def test_an_interrupt_leaves_the_old_run_as_it_was(run_dir, monkeypatch, number):
    before = contents(run_dir)
    new = sample_run(seed=2)
    with monkeypatch.context() as patch:
        fail_call(patch, "replace", number, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            write_run(run_dir, new.record, new.images, new.attacks, new.run_info)
    assert contents(run_dir) == before


@pytest.mark.parametrize("number", range(1, 5))
def test_a_failed_first_write_leaves_nothing(tmp_path, monkeypatch, number):
    run = sample_run()
    with monkeypatch.context() as patch:
        fail_call(patch, "replace", number, OSError(errno.EIO, "Input/output error"))
        with pytest.raises(RunDirectoryError, match="Input/output error"):
            write_run(tmp_path, run.record, run.images, run.attacks, run.run_info)
    assert contents(tmp_path) == {}


def test_the_record_takes_its_place_last(run_dir, monkeypatch):
    order = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (order.append(Path(target).name), real(source, target)))
    new = sample_run(seed=2)
    write_run(run_dir, new.record, new.images, new.attacks, new.run_info)
    assert sorted(order) == FILES
    assert order[-1] == "record.json"


def test_every_file_and_the_folder_are_flushed_before_and_after_the_renames(tmp_path, monkeypatch):
    events = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor):
        events.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        real_fsync(descriptor)

    def replace(source, target):
        events.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    run = sample_run()
    write_run(tmp_path, run.record, run.images, run.attacks, run.run_info)
    assert events == ["file"] * 4 + ["rename"] * 4 + ["folder"]


def test_a_file_size_limit_is_survived_in_a_real_process(tmp_path):
    """The operating system itself refuses to write more than 4 KiB: a half-written temporary file must not stay."""
    script = """
        import resource, signal, sys
        from timm_lipschitz.errors import RunDirectoryError
        from timm_lipschitz.records import write_atomic
        from pathlib import Path

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        target = Path(sys.argv[1])
        write_atomic(target, b"old")
        try:
            write_atomic(target, b"x" * 10_000)
        except RunDirectoryError as error:
            print(error)
    """
    target = tmp_path / "file"
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(target)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert "File too large" in result.stdout
    assert contents(tmp_path) == {"file": b"old"}


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_swept_meanwhile_is_writable_all_the_same(tmp_path, monkeypatch):
    """A rank that finds the run finished removes temporary files, also those of one that is about to find the same."""
    stage = _files._stage

    def swept(path, data):
        temporary = stage(path, data)
        temporary.unlink()
        return temporary

    monkeypatch.setattr(_files, "_stage", swept)
    check_writable(tmp_path)


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/timm-lipschitz", "nul\0byte", "x" * 300])
def test_an_unwritable_folder_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("a file where a folder is wanted")
    with pytest.raises(RunDirectoryError, match=r"cannot write to .*choose another folder"):
        check_writable(tmp_path / name)


@pytest.mark.parametrize("function", ["open", "fsync"])
@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_read_only_or_full_folder_is_refused(tmp_path, monkeypatch, function, code):
    """Permissions do not bind the superuser, so the calls themselves fail here."""
    with monkeypatch.context() as patch:
        fail_call(patch, function, 1, OSError(code, os.strerror(code)))
        with pytest.raises(RunDirectoryError, match=os.strerror(code)):
            check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_cannot_be_written_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    run = sample_run()
    with pytest.raises(RunDirectoryError, match="cannot write"):
        write_run(tmp_path / "file", run.record, run.images, run.attacks, run.run_info)


def test_written_files_obey_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
