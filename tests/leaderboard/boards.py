"""Leaderboards in a temporary folder."""

from pathlib import Path

from records.sample_runs import Sample, sample_model, sample_run

from timm_lipschitz.leaderboard import add
from timm_lipschitz.records import write_run

HOSTILE = (
    "<script>alert(1)</script>",
    "</table></body><img src=x onerror=alert(1)>",
    '"><svg/onload=alert(1)>',
    "javascript:alert(1)",
    "[click](javascript:alert(1))",
    "a | b | c",
    '=HYPERLINK("http://evil.example","x")',
    "+cmd|' /C calc'!A0",
    "-1+1",
    "@SUM(1)",
    "`code` ``more``",
    "{{ 7*7 }}{% raw %}",
    "www.evil.example http://evil.example",
)


def write(folder: Path, run: Sample) -> Path:
    write_run(folder, run.record, run.images, run.attacks, run.run_info)
    return folder


def add_run(tmp_path: Path, root: Path, run: Sample) -> Path:
    return add(write(tmp_path / "runs" / run.record.id, run), root)


def hostile_runs() -> list[Sample]:
    """One run for each hostile text, which is its model's name, family, and an attack's name and setting."""
    runs = []
    for number, text in enumerate(HOSTILE):
        model = sample_model(name=text, family=text)
        names = {"record_id": f"hostile-{number}", "attacks": (text, "autoattack"), "threat_models": ("l2:1.0",)}
        runs.append(sample_run(count=8, attacked=4, seed=number, model=model, **names))
    return runs
