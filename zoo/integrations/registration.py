"""Registering with transformers when, and only when, transformers is imported.

Whoever quantizes a network of the zoo should not pay the seconds that importing transformers
takes, nor need it; and whoever imported `zoo.quantization` must never get the random weights
that transformers gives to methods it does not know. So: if it is imported already, register now;
if not, register at the end of its import of the module that holds the registry.
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
    """Finds `REGISTRY` as the others do, and calls the bridge when it has been executed."""

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
    """Register now or at the import of transformers; calling it again does nothing."""
    if REGISTRY in sys.modules:
        importlib.import_module("zoo.integrations.bridge")
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())
