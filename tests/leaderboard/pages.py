"""Reading pages in tests, and a leaderboard to make them from."""

import json
from html.parser import HTMLParser
from pathlib import Path

from leaderboard.boards import add_run, hostile_runs
from records.sample_runs import Sample, sample_model, sample_run

from timm_lipschitz.records import Run

VOID = {"meta", "link", "br", "img", "hr", "input", "wbr"}


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails on tags that do not nest. ``data``: its island."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.island = ""
        self.stack: list[str] = []
        self.feed(html)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if "script" in self.stack:
            if self.elements[-1] == ("script", {"type": "application/json", "id": "data"}):
                self.island += data
        elif "style" not in self.stack:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join("".join(self.text).split())

    @property
    def data(self) -> dict:
        return json.loads(self.island)


def as_run(sample: Sample) -> Run:
    return Run(sample.record, sample.images, sample.attacks, sample.run_info)


def small_boards(root: Path, folder: Path) -> Path:
    """Three runs on MNIST: two families, two sizes, one run that covers a part of the split."""
    for number, (family, parameters, count) in enumerate(
        [("sandwich_cnn", 3_000_000, 500), ("sandwich_mlp", 300_000, 500), ("aol_cnn", 1_000_000, 300)]
    ):
        model = sample_model(
            name=f"{family}.mnist", family=family, parameters=parameters, weights_sha256=f"{number}" * 64
        )
        add_run(folder, root, sample_run(count, 50, number, 500, f"{family}.mnist", model=model))
    return root


def hostile_boards(root: Path, folder: Path) -> Path:
    for run in hostile_runs():
        add_run(folder, root, run)
    return root
