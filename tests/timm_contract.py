"""pytest plugin that runs timm's own ``tests/test_models.py`` on the models of one package.

    python -m pytest -p timm_contract --package my_package [--model NAME] .cache/timm-VERSION/test_models.py

timm's tests are parametrised with ``timm.list_models(...)`` when they are imported. The plugin narrows that function to
the models that the package registered, and then drops every test that is not about one of them.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

import pytest
import timm

_NAMES = pytest.StashKey[frozenset[str]]()
_MARKERS = ("base", "forward", "backward", "cfg", "cfg_nonstd", "torchscript", "features", "fxforward", "fxbackward")


def registered_models(package: str) -> list[str]:
    """Names, without tags, of the models whose entry points are defined in ``package``."""
    importlib.import_module(package)
    return [n for n in timm.list_models() if f"{timm.model_entrypoint(n).__module__}.".startswith(f"{package}.")]


def _narrowed(list_models: Callable[..., list[str]], names: frozenset[str]) -> Callable[..., list[str]]:
    modules = sorted({timm.model_entrypoint(name).__module__.rpartition(".")[2] for name in names})

    @functools.wraps(list_models)
    def narrowed(*args: Any, **kwargs: Any) -> list[str]:
        if "module" in kwargs:  # some tests name those of timm's families that have a feature: ours claim every feature
            kwargs["module"] = modules
        return [name for name in list_models(*args, **kwargs) if name.partition(".")[0] in names]

    return narrowed


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--package", required=True, help="the package that registers the models")
    parser.addoption("--model", help="only this one of its models")


def pytest_configure(config: pytest.Config) -> None:
    package, model = config.getoption("package"), config.getoption("model")
    names = frozenset(registered_models(package))
    if model is not None:
        names &= {model}
    if not names:
        raise pytest.UsageError(f"{package} registers no model {model or ''} with timm.")
    timm.list_models = _narrowed(timm.list_models, names)
    timm.list_pretrained = _narrowed(timm.list_pretrained, names)
    config.stash[_NAMES] = names
    for marker in _MARKERS:
        config.addinivalue_line("markers", f"{marker}: a group of timm's tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept = [item for item in items if _model(item).partition(".")[0] in config.stash[_NAMES]]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _model(item: pytest.Item) -> str:
    callspec = getattr(item, "callspec", None)
    return "" if callspec is None else str(callspec.params.get("model_name", ""))
