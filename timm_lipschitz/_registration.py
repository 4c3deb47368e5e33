"""Registers the package's models with timm as soon as timm is there, without importing it.

``import timm`` imports torch and takes seconds; ``timm-lipschitz --help``, a threat model or a record need neither.
Where timm is already imported when this package is, the models are registered at once. Where it is not, an import hook
waits for ``import timm`` and registers them right after it, so that the order of the two imports does not matter::

    import timm_lipschitz            # light
    from timm import create_model    # the hook imports timm_lipschitz.models
    create_model("sandwich_cnn")

The package's own modules import timm too (``timm_lipschitz.layers`` does). Importing ``timm_lipschitz.models`` from
the middle of such an import would find that module half initialised, so the hook watches them as well and waits until
the outermost one is complete. A registration that fails makes the import that triggered it fail, and is tried again at
the next.
"""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["register_models_with_timm"]

_PACKAGE = __name__.partition(".")[0]


class _Loader:
    """A module's own loader, and a word to the hook before and after it has run the module."""

    def __init__(self, loader: Any, hook: "_Hook") -> None:
        self._loader = loader
        self._hook = hook

    def __getattr__(self, name: str) -> Any:  # get_code for runpy, is_package, create_module, ...
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader  # the module never sees this class
        self._hook.importing.add(module.__name__)
        try:
            self._loader.exec_module(module)
        finally:
            self._hook.importing.discard(module.__name__)
        self._hook.register()


class _Hook(MetaPathFinder):
    """Leaves finding to the finders behind it; notes when timm and this package's modules have been run."""

    def __init__(self) -> None:
        self.importing: set[str] = set()
        self.registered = False

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if self.registered or not (fullname == "timm" or fullname.startswith(f"{_PACKAGE}.")):
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment]
                return spec
        return None

    def register(self) -> None:
        if self.registered or self.importing or sys.modules.get("timm") is None:
            return
        self.registered = True
        try:
            import_module(f"{_PACKAGE}.models")
        except BaseException:
            self.registered = False
            raise


def register_models_with_timm() -> None:
    """Register now if timm is imported, else right after it is. To be called once, when the package is imported."""
    hook = _Hook()
    hook.register()
    if not hook.registered:
        sys.meta_path.insert(0, hook)
