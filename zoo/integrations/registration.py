"""Registering with transformers when, and only when, transformers is imported.

Quantizing a network of the zoo should not cost the seconds that importing transformers takes, nor
require it; and after importing `zoo.quantization` nobody must ever get the random weights that
transformers gives to methods it does not know. So if transformers is already imported, register
now; if not, register when its module that holds the registry has been imported.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

REGISTRY = "transformers.quantizers"


class _AfterImport(importlib.abc.MetaPathFinder):
    """Finds `REGISTRY` as other finders do, and calls the bridge once it has been executed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            importlib.import_module("zoo.integrations.bridge")

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def ensure() -> None:
    """Register now or when transformers is imported; calling it again does nothing."""
    if REGISTRY in sys.modules:
        importlib.import_module("zoo.integrations.bridge")
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())
