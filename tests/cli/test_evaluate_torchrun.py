"""The real thing: torchrun on the command line, a rank that dies, and a record as of one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli.calls import call

from timm_lipschitz.records import read_run

NETWORK = """
import os
import signal

import timm
import torch

import timm_lipschitz
from timm_lipschitz.evaluation.run_folder import RunFolder


def make():
    if os.environ.get("RANK") == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        die_behind_an_attack()
    torch.manual_seed(0)
    return timm.create_model("sandwich_mlp", in_chans=3, img_size=8, num_classes=3)


def die_behind_an_attack():
    write = RunFolder.write

    def dying(self, unit, chunk):
        write(self, unit, chunk)
        if "pgdl2" in unit:
            open("died", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)

    RunFolder.write = dying
"""


@pytest.mark.slow
def test_torchrun_with_a_rank_that_dies_gives_the_record_of_one_process(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("dying_network.py").write_text(NETWORK)
    typed = ["evaluate", "dying_network:make", "--data", "image_folder", "--data-dir", str(images), "--device", "cpu"]
    typed += ["--threat-model", "l2:0.1", "--threat-model", "l2:0.5", "--attack", "pgdl2", "--batch-size", "1"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    torchrun += ["--max-restarts", "1", "-m", "timm_lipschitz", *typed, "--run-dir", "shared"]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = call(*typed, "--run-dir", "alone")
    finally:
        torch.set_num_threads(threads)
    assert alone.exit_code == 0, alone.output

    source = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source}
    done = subprocess.run(torchrun, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert Path("died").exists()
    for name in ("record.json", "images.parquet", "attacks.parquet"):
        assert Path("shared", name).read_bytes() == Path("alone", name).read_bytes(), name
    sessions = read_run("shared").run_info.sessions
    ranks = [session.rank for session in sessions]
    assert ranks.count(1) == 2
    assert ranks.count(0) >= 1  # torchrun restarts both, rank 0 perhaps before it has begun
    assert done.stdout.count("record: ") == 1  # rank 0 alone says it
