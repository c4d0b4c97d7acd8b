"""Hooks on a model that keep forward passes and switches apart.

`generate` of a language model is many passes and counts as one.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from zoo.adapters.gate import Gate
from zoo.adapters.sparse import unwrapped
from zoo.errors import MismatchError

GENERATE = "generate"


class _Held(threading.local):
    """Per thread: passes that hold the gate, and whether the last one was refused."""

    depth = 0
    refused = False


class Guard:
    """Holds the gate shared during a forward pass.

    Inside a graph that is being compiled it does nothing, so that it breaks no graph: the guard on
    the outside of the compiled model does the work. A copy or a pickle of the model has an inert
    one.
    """

    def __init__(self, gate: Gate | None, check: Callable[[], None] | None) -> None:
        self.gate = gate
        self.check = check
        self.handles: list[RemovableHandle] = []
        self.generating: list[nn.Module] = []  # those whose `generate` holds the gate
        self._mine = _Held()

    def __deepcopy__(self, memo: Any) -> "Guard":
        return Guard(None, None)

    def __reduce__(self) -> Any:
        return Guard, (None, None)

    def before(self, module: nn.Module, args: Any) -> None:
        """Enter; refuse a model whose weights are in an unknown state."""
        if torch.compiler.is_compiling() or self.gate is None or self.check is None:
            return
        self._mine.refused = True
        self.gate.enter_shared()
        try:
            self.check()
        except BaseException:
            self.gate.leave_shared()
            raise
        self._mine.refused = False
        self._mine.depth += 1

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        """Leave; called after an exception too."""
        if torch.compiler.is_compiling() or self.gate is None:
            return
        if self._mine.refused:
            self._mine.refused = False
        elif self._mine.depth:  # 0: somebody else's earlier hook failed
            self._mine.depth -= 1
            self.gate.leave_shared()


def attach(model: nn.Module, gate: Gate, check: Callable[[], None]) -> Guard:
    """Guard the forward passes of `model`, and of what `torch.compile` wrapped.

    Raises:
        MismatchError: another switcher has the model.

    """
    modules = {id(module): module for module in (model, unwrapped(model))}.values()
    for module in modules:
        for hook in module._forward_pre_hooks.values():
            owner = getattr(hook, "__self__", None)
            if isinstance(owner, Guard) and owner.gate is not None:
                raise MismatchError(
                    "the model already has a Switcher; use that one, or close() it first"
                )
    guard = Guard(gate, check)
    for module in modules:
        guard.handles += [
            module.register_forward_pre_hook(guard.before, prepend=True),
            module.register_forward_hook(guard.after, always_call=True),
        ]
        if hasattr(type(module), GENERATE) and GENERATE not in vars(module):
            # Of plain parts, so that copies and pickles of the model have one of their own.
            vars(module)[GENERATE] = functools.partial(_generate, guard, module)
            guard.generating.append(module)
    return guard


def _generate(guard: Guard, module: nn.Module, *args: Any, **options: Any) -> Any:
    """Generate as one pass."""
    whole = getattr(type(module), GENERATE)
    if guard.gate is None:
        return whole(module, *args, **options)
    with guard.gate.shared():
        return whole(module, *args, **options)


def detach(model: nn.Module, guard: Guard) -> None:
    """Remove the hooks."""
    for handle in guard.handles:
        handle.remove()
    for module in guard.generating:
        vars(module).pop(GENERATE, None)
    guard.gate = None
