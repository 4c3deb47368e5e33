"""The models are registered with timm whichever is imported first, also where the package's own modules import it."""

import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import timm
import torch

import timm_lipschitz

# What a fresh interpreter runs before it asks timm for a model.
FIRST = {
    "timm": "import timm, timm_lipschitz",
    "package": "import timm_lipschitz, timm",
    "package, then a name of timm": "import timm_lipschitz\nfrom timm import create_model",
    "package, then a submodule of timm": "import timm_lipschitz\nfrom timm.models import create_model",
    "layers, which import timm themselves": "from timm_lipschitz.layers import SandwichLinear",
    "a lazy attribute": "import timm_lipschitz\ntimm_lipschitz.SandwichLinear",
    "models": "import timm_lipschitz.models",
    "timm is looked for, not imported": "import timm_lipschitz, importlib.util as u\nassert u.find_spec('timm')",
    "a failing registration, then once more": """
import sys, timm_lipschitz
sys.modules["timm_lipschitz.models"] = None
try:
    import timm
except ModuleNotFoundError as error:
    assert "timm_lipschitz.models" in str(error)
else:
    raise AssertionError("a registration that failed was passed over")
del sys.modules["timm_lipschitz.models"]
""",
}
ASK = """
import timm
assert timm.create_model("sandwich_mlp").lipschitz == 1.0
assert type(timm.__spec__.loader).__module__.startswith(("importlib", "_frozen_importlib")), timm.__spec__
"""
# Everything below timm is imported once (it takes seconds), then each case runs in a fork of its own.
RUNNER = """
import os, sys, traceback
import torch, torchvision.models.feature_extraction
assert "timm" not in sys.modules and "timm_lipschitz" not in sys.modules
for code in {codes!r}:
    sys.stdout.flush()
    if os.fork() == 0:
        try:
            exec(code, {{}})
        except BaseException:
            print(repr(traceback.format_exc()))
        else:
            print("'ok'")
        sys.stdout.flush()
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def results() -> dict[str, str]:
    runner = RUNNER.format(codes=[code + ASK for code in FIRST.values()])
    root = Path(timm_lipschitz.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", runner], capture_output=True, text=True, check=True, cwd=root)
    return dict(zip(FIRST, done.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("first", FIRST)
def test_models_are_registered_whatever_is_imported_first(first: str, results: dict[str, str]) -> None:
    assert results[first] == "'ok'"


@pytest.mark.slow
def test_a_model_is_unpickled_in_a_spawned_process_which_can_then_create_others() -> None:
    model = timm.create_model("sandwich_mlp").eval().requires_grad_(False)
    image = torch.rand(1, 1, 28, 28)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        logits = pool.submit(model, image).result()
        created = pool.submit(timm.create_model, "sandwich_mlp").result()

    torch.testing.assert_close(logits, model(image))
    assert created.default_cfg["architecture"] == "sandwich_mlp"


def test_running_the_package_as_a_script_goes_through_the_import_hook() -> None:
    root = Path(timm_lipschitz.__file__).parents[1]
    command = [sys.executable, "-m", "timm_lipschitz", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout == f"timm-lipschitz {timm_lipschitz.__version__}\n"
