"""`Switcher`: adapters fused into a live model, switched in milliseconds, undone bit for bit.

A switch writes only the elements that differ: the base's values where the old adapter was, then the
new adapter's. A restore brings back the base's own bits, never the result of a subtraction.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from zoo.adapters.format import SparseAdapter
from zoo.adapters.fusion import Fusion, FusionOptions, weights_of
from zoo.adapters.gate import Gate
from zoo.adapters.guard import Guard, attach, detach
from zoo.adapters.plan import Key, SwitchPlan
from zoo.adapters.planner import Planner
from zoo.adapters.sparse import fingerprint
from zoo.errors import MismatchError, ZooError

log = logging.getLogger("zoo")

What = str | Mapping[str, float]


class Switcher:
    """Keeps any number of adapters for one model, and fuses one, several or none into it.

    Forward passes of the model and switches exclude each other: a switch waits for the passes that
    run, and a pass sees one state from its first layer to its last. Writes go to the parameters'
    own memory, so that compiled graphs and exported pointers stay valid.

    Args:
        model: the base model, pristine; its weights must be here in memory. For a model under
            `torch.compile` give the compiled one, so that its passes are guarded too.
        strict: whether an adapter's base digest and type must fit; its shapes always must.
        cache_bytes: memory for plans, of which the least recently used are dropped; the same again
            for adapters read from files.

    ```python
    import zoo
    from zoo.adapters import Switcher

    switcher = Switcher(zoo.load("sesr-m5-x2"))
    switcher.register("screens", "adapters/sesr-m5-x2-screens.safetensors")
    with switcher.using("screens"):
        pass  # the model has the adapter in here, and its own weights again afterwards
    ```

    """

    def __init__(
        self, model: nn.Module, *, strict: bool = True, cache_bytes: int = 1 << 30
    ) -> None:
        _refuse_freezing()
        self.model = model
        self._planner = Planner(model, strict=strict, cache_bytes=cache_bytes)
        self._active: SwitchPlan | None = None
        self._journal: tuple[SwitchPlan | None, SwitchPlan | None] | None = None
        self._groups: dict[Key | None, _Group] = {}
        self._gate = Gate()
        self._mutex = threading.RLock()
        self._hash: str | None = None
        self._counts = {"switches": 0, "rollbacks": 0}
        self._seconds = 0.0
        self._guard: Guard | None = attach(model, self._gate, self._refuse_broken)

    # --- adapters ------------------------------------------------------------------------------

    def register(self, name: str, adapter: SparseAdapter | str | Path) -> None:
        """Make an adapter known under `name`: one in memory, a file, or the name of a shipped one.

        Of a file only the header is read; the rest is read, and all of it checked, when it is first
        activated. So a thousand registered adapters cost nothing.

        Raises:
            MismatchError: the name is taken, or a tensor is missing or of another shape or type.

        """
        with self._gate.shared(), self._mutex:
            self._planner.register(name, adapter)

    def unregister(self, name: str) -> None:
        """Forget an adapter, which must not be active."""
        self._planner.known(name)
        with self._gate.exclusive(), self._mutex:
            if name in self.active:
                raise MismatchError(f"{name!r} is active; deactivate it first")
            self._planner.forget(name)

    @property
    def registered(self) -> tuple[str, ...]:
        """Names of the adapters, sorted."""
        return tuple(sorted(self._planner.sources))

    @property
    def active(self) -> dict[str, float]:
        """Weights of the active adapters by name; empty for the base."""
        return dict(self._active.key.weights) if self._active else {}

    @property
    def changed(self) -> int:
        """Elements of the model that the active adapters have written."""
        edits = self._active.edits.values() if self._active else ()
        return sum(len(edit.new) for edit in edits)

    def stats(self) -> dict[str, Any]:
        """Return counts, the last switch's time in ms, and what the caches hold."""
        planner = self._planner
        return {
            **self._counts,
            "last_switch_ms": self._seconds * 1e3,
            "plans_built": planner.built,
            "plans_reused": planner.reused,
            "registered": len(planner.sources),
            "plans": len(planner.plans),
            "cache_bytes": planner.plans.nbytes + planner.read.nbytes,
        }

    # --- switching -----------------------------------------------------------------------------

    def activate(self, what: What, *, alpha: float = 1.0, **fusion: Unpack[FusionOptions]) -> None:
        """Fuse one adapter, or several with weights, into the model, in place of what is active.

        Args:
            what: a name, or weights by name.
            alpha: weight of a single adapter.
            fusion: `strategy`, what happens on overlaps ("sum"); `density` (0.5) and `seed` (0) of
                "dare"; `order`, names for "priority". See `zoo.adapters.fusion`.

        Raises:
            UnknownNameError: there is no such adapter or strategy.
            MismatchError: an adapter does not belong to this base, or a weight is not a finite
                number.
            UnsafeFileError: its file is damaged.

        """
        plan = self._plan(self._key(what, alpha, Fusion(**fusion)))
        with self._gate.exclusive():
            self._switch(plan)

    def deactivate(self) -> None:
        """Return to the base, bit for bit, even from a switch whose rollback failed."""
        with self._gate.exclusive():
            self._switch(None)

    @contextmanager
    def using(
        self, what: What, *, alpha: float = 1.0, **fusion: Unpack[FusionOptions]
    ) -> Iterator[None]:
        """Activate, as `activate` does, for a `with` block, in which no other thread can switch.

        Threads that use the same adapters at the same time share the block; those that want others
        wait. The last one to leave brings back what was active before.
        """
        plan = self._plan(self._key(what, alpha, Fusion(**fusion)))
        group = self._enter(plan)
        try:
            yield
        finally:
            self._leave(plan, group)

    def verify(self) -> str:
        """Return the SHA-256 of the base, as it is or as it would be restored.

        Raises:
            MismatchError: an active element was changed by somebody else, or the base differs from
                that of the last call.

        """
        with self._gate.exclusive():
            self._refuse_broken()
            edits = self._active.edits if self._active else {}
            for name, edit in edits.items():
                if edit.memory.moved or not edit.holds():
                    raise MismatchError(f"{name} was changed while an adapter was active")
            active = self._active
            self._switch(None)
            try:
                sha256 = fingerprint(self.model)
            finally:
                self._switch(active)
            if self._hash not in (None, sha256):
                raise MismatchError(
                    f"the base has changed: sha256 {sha256[:16]}…, before {str(self._hash)[:16]}…"
                )
            self._hash = sha256
            return sha256

    def close(self) -> None:
        """Return to the base and let go of the model."""
        self.deactivate()
        if self._guard is not None:
            detach(self.model, self._guard)
            self._guard = None

    # --- internals -----------------------------------------------------------------------------

    def _key(self, what: What, alpha: float, fusion: Fusion) -> Key | None:
        if not isinstance(what, str | Mapping):
            raise MismatchError(
                f'what to activate is {what!r}; expected a name, or weights by name: {{"a": 0.5}}'
            )
        if not isinstance(what, str) and alpha != 1.0:
            raise MismatchError("alpha is for a single adapter; give weights by name instead")
        weights = {what: alpha} if isinstance(what, str) else what
        for name in (*weights, *fusion.order):
            self._planner.known(name)
        kept = weights_of(list(weights), weights)
        return Key(tuple(sorted(kept.items())), fusion) if kept else None

    def _plan(self, key: Key | None) -> SwitchPlan | None:
        """Return the plan for a state, from the cache or newly built; nothing is written."""
        _refuse_freezing()
        if key is None:
            return None
        with self._gate.shared(), self._mutex:
            self._refuse_broken()
            return self._planner.plan(key, self._active)

    def _switch(self, plan: SwitchPlan | None) -> None:
        """Write a plan in place of the active one, with the model to itself, all or nothing."""
        before = self._active
        if self._journal is not None:
            if plan is not None:
                self._refuse_broken()
            self._recover()
            return
        if plan is before:
            return
        if plan is None:  # otherwise the planner has just looked
            self._planner.refresh(before)
        self._warn_of_lost(before)
        start = time.perf_counter()
        try:
            self._journal = (before, plan)
            self._transition(before, plan)
            self._active, self._journal = plan, None
        except BaseException:
            self._journal = (before, plan)
            self._roll_back(before, plan)
            raise
        self._counts["switches"] += 1
        self._seconds = time.perf_counter() - start

    def _warn_of_lost(self, before: SwitchPlan | None) -> None:
        """Say so if weights were trained that a switch is about to overwrite."""
        for name, edit in (before.edits if before else {}).items():
            if edit.memory.trained and not edit.holds():
                log.warning(
                    "%s was trained while an adapter was active: what the adapter covers returns "
                    "to the base's values; deactivate() before training, or train an adapter",
                    name,
                )

    def _transition(self, before: SwitchPlan | None, plan: SwitchPlan | None) -> None:
        old = before.edits if before else {}
        new = plan.edits if plan else {}
        for name in sorted({**old, **new}):
            undo, edit = old.get(name), new.get(name)
            # Both in turn per tensor: the second finds it in the processor's cache.
            if undo is not None and (edit is None or edit.mask != undo.mask):
                self._write(undo.undo)
            if edit is not None:
                self._write(edit.apply)
            touched = edit or undo
            if touched is not None:
                touched.memory.written()

    def _write(self, step: Callable[[], None]) -> None:
        step()

    def _roll_back(self, before: SwitchPlan | None, plan: SwitchPlan | None) -> None:
        """Undo a switch that failed; if this fails too, the journal stays and forward refuses."""
        for part in (plan, before):
            for edit in (part.edits if part else {}).values():
                self._write(edit.undo)
        for edit in (before.edits if before else {}).values():
            self._write(edit.apply)
        self._counts["rollbacks"] += 1
        self._active, self._journal = before, None

    def _recover(self) -> None:
        """Return to the base from a switch that was neither finished nor rolled back."""
        assert self._journal is not None
        for part in self._journal:
            for edit in (part.edits if part else {}).values():
                self._write(edit.undo)
        self._active, self._journal = None, None

    def _refuse_broken(self) -> None:
        if self._journal is not None:
            raise ZooError(
                "a switch failed and could not be undone, so the weights are neither the base's "
                "nor an adapter's; type: switcher.deactivate()"
            )

    # --- groups of threads that use the same adapters -------------------------------------------

    def _enter(self, plan: SwitchPlan | None) -> "_Group":
        """Hold the model shared, with `plan` active."""
        key = plan.key if plan else None
        self._gate.enter_shared()
        with self._mutex:
            group = self._groups.get(key)
            whole = self._active is plan and self._journal is None
            if group is not None and group.count and whole:  # 0: about to switch
                group.count += 1
                return group
        self._gate.leave_shared()
        with self._gate.exclusive():
            group = _Group(self._active, self._groups.get(key))
            self._switch(plan)
            self._gate.enter_shared()
            with self._mutex:
                self._groups[key] = group
        return group

    def _leave(self, plan: SwitchPlan | None, group: "_Group") -> None:
        key = plan.key if plan else None
        with self._mutex:
            group.count -= 1
            last = not group.count
        try:
            if last:
                with self._gate.exclusive():
                    with self._mutex:
                        if group.outer is None:
                            self._groups.pop(key, None)
                        else:
                            self._groups[key] = group.outer
                    if self._active is plan:
                        self._switch(group.before)
        finally:
            self._gate.leave_shared()


class _Group:
    """Threads inside `using` of the same adapters, and what was active before the first."""

    def __init__(self, before: SwitchPlan | None, outer: "_Group | None") -> None:
        self.before = before
        self.outer = outer
        self.count = 1


def _refuse_freezing() -> None:
    """Inductor's freezing folds weights into the graph: a switch would change nothing there."""
    config = sys.modules.get("torch._inductor.config")
    if config is not None and getattr(config, "freezing", False):
        raise MismatchError(
            "torch._inductor.config.freezing is on: compiled graphs would keep the old weights; "
            "set it to False and compile again"
        )
