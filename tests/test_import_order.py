"""A module imports only from modules above it in ``ORDER``, and importing the package is cheap."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import timm_lipschitz

ORDER = (
    "errors",
    "device",
    "memory",
    "threat_model",
    "records",
    "data",
    "layers",
    "models",
    "folding",
    "certification",
    "losses",
    "training",
    "attacks",
    "evaluation",
    "leaderboard",
)
FREE = ("__init__", "__main__", "_registration", "cli")
HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pyarrow",
    "jinja2",
    "pydantic",
    "torchattacks",
    "autoattack",
    "typer",
)

PACKAGE = "timm_lipschitz"
ROOT = Path(timm_lipschitz.__file__).parent
FILES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")}


def component(file: str) -> str:
    """The module or folder of the package that a file belongs to: ``layers`` for ``layers/cayley.py``."""
    return file.removesuffix(".py").split("/")[0]


def imported_components(file: str, source: str) -> Iterator[str]:
    """The modules and folders of the package that a file imports, at its top or inside a function."""
    package = [PACKAGE, *file.split("/")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == PACKAGE and len(parts) > 1:
                # a name that the package itself exports counts as the module it comes from
                yield timm_lipschitz._MODULE_OF.get(parts[1], parts[1])


def imports_from_below(file: str, source: str) -> list[str]:
    own = component(file)
    if own in FREE:
        return []
    allowed = ORDER[: ORDER.index(own) + 1]
    return sorted({name for name in imported_components(file, source) if name not in allowed and name != "__version__"})


def test_every_module_is_in_the_order() -> None:
    assert {component(file) for file in FILES} <= {*ORDER, *FREE}


@pytest.mark.parametrize("file", [file for file in sorted(FILES) if component(file) in ORDER])
def test_modules_import_only_from_above(file: str) -> None:
    assert imports_from_below(file, FILES[file]) == []


@pytest.mark.parametrize(
    ("file", "source", "below"),
    [
        ("layers/cayley.py", "from ..models import LipschitzNet", ["models"]),
        ("layers/cayley.py", "from .. import models", ["models"]),
        ("layers/cayley.py", "import timm_lipschitz.models.sandwich_mlp", ["models"]),
        ("layers/cayley.py", "from timm_lipschitz import fold", ["folding"]),
        ("layers/cayley.py", "def f():\n    from ..cli import app", ["cli"]),
        ("layers/cayley.py", "from . import heads\nfrom .heads import x\nfrom ..errors import y", []),
        ("errors.py", "from .records import schema", ["records"]),
        ("losses.py", "from .layers import x\nimport torch", []),
        ("cli/train.py", "from ..leaderboard import x", []),
    ],
)
def test_the_check_sees_an_import_from_below(file: str, source: str, below: list[str]) -> None:
    assert imports_from_below(file, source) == below


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = f"import sys, timm_lipschitz; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", timm_lipschitz.__all__)
def test_every_exported_name_can_be_had(name: str) -> None:
    assert name in dir(timm_lipschitz)
    assert getattr(timm_lipschitz, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'certfy'"):
        timm_lipschitz.certfy  # noqa: B018
