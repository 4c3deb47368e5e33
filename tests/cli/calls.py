"""A way to call the command line in tests, and a small data set for it."""

import shlex
from pathlib import Path

import numpy as np
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from timm_lipschitz.cli import app

SIZE = 8
CLASSES = ("left", "middle", "right")
TRAIN_OPTIONS = ("--epochs", "3", "--batch-size", "16", "--margin", "0.3", "--learning-rate", "0.01")


def call(*arguments: object) -> Result:
    """Runs a command line in this process."""
    return CliRunner().invoke(app, list(map(str, arguments)))


def printed_commands(text: str) -> list[list[str]]:
    """The arguments of every command of the program that ``text`` shows on a line of its own."""
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith("  ") and "timm" in line]
    starts = [
        next(i for i, word in enumerate(words) if word.endswith(("timm-lipschitz", "timm_lipschitz")))
        for words in lines
    ]
    return [words[start + 1 :] for words, start in zip(lines, starts, strict=True)]


def figures(text: str) -> dict[str, tuple[str, str]]:
    """Percentage and counts by the names of a table's rows, such as ``clean  83.3  [55.1, 95.3]  10 of 12``."""
    rows = [line.split("  ") for line in text.splitlines() if " of " in line and "[" in line]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    return {name: (percent, counts) for name, percent, _, counts in cells}


def write_images(folder: Path, count: int, seed: int) -> None:
    """``count`` RGB images of each class, bright in a part of the columns that belongs to the class, with noise."""
    generator = np.random.default_rng(seed)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(0, 110, (SIZE, SIZE, 3), dtype=np.uint8)
            pixels[:, 3 * label : 3 * label + 2] += 60
            Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")
