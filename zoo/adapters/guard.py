"""Hooks on a model that keep forward passes and switches apart."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from zoo.adapters.gate import Gate
from zoo.adapters.sparse import unwrapped
from zoo.errors import MismatchError


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
    return guard


def detach(model: nn.Module, guard: Guard) -> None:
    """Remove the hooks."""
    for handle in guard.handles:
        handle.remove()
    guard.gate = None
