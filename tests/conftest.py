"""Settings of every test run."""

import multiprocessing
import os
from multiprocessing.context import BaseContext

import pytest

# Before torch is imported, and for child processes too: one thread for each of pytest-xdist's workers, no network.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from hypothesis import settings

# The same examples in every run, and no limit on the time of one: the machine may be busy.
settings.register_profile("reproducible", derandomize=True, deadline=None)
settings.load_profile("reproducible")


# Shared helpers that assert: their messages show the values, as those of tests do.
pytest.register_assert_rewrite("layer_contract", "layers.reference", "models.narrow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)  # first, so that no worker ends on one alone
    on_gpu = [item for item in items if item.get_closest_marker("cuda")]
    if on_gpu:
        import torch

        if not torch.cuda.is_available():
            for item in on_gpu:
                item.add_marker(pytest.mark.skip(reason="needs a GPU, and torch sees none"))


@pytest.fixture(scope="session")
def forkserver() -> BaseContext:
    """Start child processes from here: they begin with the imports done, which otherwise take seconds each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "timm", "torchattacks", "timm_lipschitz.evaluation"])
    return context
