"""What the page's Adapters tab shows, without the page: benches with a base and its adapters.

A bench is shared by all visitors and serves one at a time: adapters go in for one answer and come
out before the next, so that nobody's choice shows in anybody else's output. Nothing here knows
Gradio; `zoo.page.tabs.adapters` lays it out.
"""

import copy
import functools
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image

from zoo import tasks
from zoo.adapters import Switcher, compare, registry
from zoo.adapters.base import Base
from zoo.artifacts import adapters as adapter_refs
from zoo.artifacts.base import load_base, named
from zoo.errors import MismatchError, MissingWeightsError
from zoo.page.cards import figures, longer, threads
from zoo.page.given import number, text
from zoo.page.tabs.contract import missing
from zoo.tasks.contract import Demo, Shown

ROUNDS = 3
MOST_PROMPT = 2000  # characters
OPENING = ("smollm2-shakespeare",)
WEIGHTS = (-1.0, 1.5)  # least and most


@dataclass(frozen=True)
class Answer:
    """What a visitor gets.

    Attributes:
        base: output of the base model, a text or a picture.
        fused: output with the adapters in it.
        weights: of the adapters that were in it.
        changed: weights of the model that they changed.
        switch_ms: adapters in and out again, median of `ROUNDS`, measured now; 0 without any.
        peft_ms: the same with peft's SHiRA and the same adapters, merged and unmerged.
        peft_why: why there is no such time, or empty.
        before: SHA-256 of the base before.
        after: and after.
        picture: how the adapters interfere, of two or more.
        ended: whether it is whole; a text grows.

    """

    base: str | Image.Image
    fused: str | Image.Image
    weights: Mapping[str, float]
    changed: int
    switch_ms: float
    peft_ms: float | None
    peft_why: str
    before: str
    after: str
    picture: Image.Image | None
    ended: bool = False


@dataclass(eq=False)
class Bench:
    """A base model and its adapters; loaded when it is first used.

    Attributes:
        ref: of the base model.
        adapters: their names.

    """

    ref: str
    adapters: tuple[str, ...]
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pefts: "dict[str, Any]" = field(default_factory=dict)

    @property
    def task(self) -> Shown:
        """The task of its first adapter, which shows all of them."""
        return cast(Shown, tasks.named(registry.find(self.adapters[0]).task))

    @property
    def demo(self) -> Demo:
        """How the task shows what adapters change."""
        facts = self.task.FACTS
        if facts.demo is None:
            raise MismatchError(f"the task {facts.name!r} has nothing to show on the page")
        return facts.demo

    @property
    def kind(self) -> str:
        """The mark of its part of the page: "text", "picture"."""
        return self.demo.kind

    @property
    def missing(self) -> str:
        """Why it cannot be used here; empty if it can."""
        if sentence := missing(dict.fromkeys(self.demo.packages, "adapters")):
            return sentence
        try:
            named(self.ref)
        except MissingWeightsError as error:
            return str(error)
        return ""

    @property
    def opening(self) -> str:
        """The adapter that the page opens on: of texts one that changes their style."""
        return next((n for n in self.adapters if n in OPENING), self.adapters[-1])

    @functools.cached_property
    def base(self) -> Base:
        """The base model."""
        return load_base(self.ref)

    @functools.cached_property
    def switcher(self) -> Switcher:
        """What puts adapters in."""
        switcher = Switcher(self.base.model)
        for name in self.adapters:
            switcher.register(name, adapter_refs.adapter(name))
        return switcher

    def answer(self, given: Any, weights: Mapping[str, float], strategy: str) -> Answer:
        """Return what the base makes of an input, without and with adapters; see `answers`."""
        *_, last = self.answers(given, weights, strategy)
        return last

    def answers(self, given: Any, weights: Mapping[str, float], strategy: str) -> Iterator[Answer]:
        """Yield what the base makes of an input, without and with adapters, as it grows.

        Between two answers the bench is free: adapters go in for one step alone, and come out.

        Args:
            given: a prompt, or the file of a picture.
            weights: by name, within `WEIGHTS`; those of 0 take no part.
            strategy: on overlaps; see `zoo.adapters.fusion`.

        Raises:
            MismatchError: one of them is wrong.

        """
        if unknown := set(weights) - set(self.adapters):
            raise MismatchError(f"{self.ref} has no adapter {min(unknown)!r}")
        asked = {n: number(w, f"weight of {n}", *WEIGHTS, 0.0) for n, w in weights.items()}
        chosen = {name: weight for name, weight in asked.items() if weight}
        checked, strategy = _checked(self.demo, given), str(strategy)
        with self._lock, torch.no_grad():
            answer = self._measured(chosen, strategy)
        plain, fused = self._steps(checked), self._steps(checked)
        while not answer.ended:
            with self._lock:
                self.switcher.deactivate()  # an interrupted visitor may have left adapters in
                base = next(plain, None)
                if chosen:
                    with self.switcher.using(chosen, strategy=strategy):
                        other = next(fused, None)
                else:
                    other = base
                if base is other is None:
                    answer = replace(answer, after=self.switcher.verify(), ended=True)
            answer = replace(
                answer,
                base=answer.base if base is None else base,
                fused=answer.fused if other is None else other,
            )
            yield answer

    def _measured(self, chosen: dict[str, float], strategy: str) -> Answer:
        """Return the facts of a mix, with no output yet."""
        switcher, model = self.switcher, self.base.model
        switcher.deactivate()
        before = switcher.verify()
        if not chosen:
            return Answer("", "", {}, 0, 0.0, None, "", before, before, None)
        times = []
        for _ in range(ROUNDS + 1):  # the first builds the plan
            start = time.perf_counter()
            switcher.activate(chosen, strategy=strategy)
            switcher.deactivate()
            times.append(time.perf_counter() - start)
        with switcher.using(chosen, strategy=strategy):
            changed = switcher.changed
        adapters = {name: adapter_refs.adapter(name) for name in chosen}
        picture = compare(adapters, model, chosen).picture() if len(chosen) > 1 else None
        peft_ms, why = self._peft(sorted(chosen))
        return Answer(
            "", "", chosen, changed, statistics.median(times[1:]) * 1e3, peft_ms, why,
            before, switcher.verify(), picture,
        )  # fmt: skip

    def _steps(self, given: Any) -> Iterator[str | Image.Image]:
        base = self.base
        return self.task.demo(base.model, base.recipe, base.tokenizer, given)

    def _peft(self, names: list[str]) -> tuple[float | None, str]:
        """Return how long peft takes to merge and unmerge the same adapters, or why it cannot."""
        try:
            wrapped = self._pefts.get("model") or self._wrapped(names)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for name in names:
                    if name not in wrapped.peft_config:
                        with tempfile.TemporaryDirectory() as folder:
                            wrapped.load_adapter(self._exported(name, folder), adapter_name=name)
                times = []
                for _ in range(ROUNDS):
                    start = time.perf_counter()
                    wrapped.merge_adapter(names)
                    wrapped.unmerge_adapter()
                    times.append(time.perf_counter() - start)
        except ImportError:
            return None, "peft is not installed"
        except MismatchError:
            return None, "its SHiRA takes linear layers only"
        return statistics.median(times) * 1e3, ""

    def _wrapped(self, names: list[str]) -> Any:
        """Return peft's model around a copy of the base: ours stays as it is."""
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = self._exported(names[0], folder)  # refused before peft, which takes seconds
            from peft import PeftModel

            other = copy.deepcopy(self.base.model)
            self._pefts["model"] = PeftModel.from_pretrained(other, path, adapter_name=names[0])
        return self._pefts["model"]

    def _exported(self, name: str, folder: str) -> Path:
        from zoo.adapters.peft_bridge import to_peft

        return to_peft(adapter_refs.adapter(name), folder, self.base.model)


def benches() -> list[Bench]:
    """Return a bench for every base model that has shipped adapters, texts first."""
    by_base: dict[str, list[str]] = {}
    for name in registry.names():
        recipe = registry.find(name)
        if "file" in recipe.weights and tasks.named(recipe.task).FACTS.demo is not None:
            by_base.setdefault(recipe.base, []).append(name)
    made = [Bench(ref, tuple(names)) for ref, names in by_base.items()]
    return sorted(made, key=lambda bench: (bench.demo.gives != "text", bench.kind, bench.ref))


def _checked(demo: Demo, given: Any) -> Any:
    if demo.takes == "picture":
        if not given:
            raise MismatchError("There is no picture yet: drop one in, or take an example.")
        return Path(given)
    said = text(given, "prompt").rstrip(" ")
    if not said.strip():
        raise MismatchError("There is no prompt yet: type one, or take an example.")
    if len(said) > MOST_PROMPT:
        raise MismatchError(
            f"the prompt has {len(said):,} characters; this page takes up to {MOST_PROMPT:,}"
        )
    return said


def facts(bench: Bench, answer: Answer) -> str:
    """Return the HTML of the facts below the outputs."""
    total = sum(p.numel() for p in bench.base.model.parameters())
    same = answer.before == answer.after
    if answer.peft_ms is not None:
        times = answer.peft_ms / answer.switch_ms
        note = f"{longer(times)}: its SHiRA, the same adapters merged and unmerged"
        peft = f"{answer.peft_ms:.3g} ms", f"{note}, measured now"
    else:
        peft = ("not possible" if answer.peft_why else "no adapter", f"peft: {answer.peft_why}")
    cards = [
        ("Switch, in and out", f"{answer.switch_ms:.3g} ms" if answer.weights else "no adapter",
         f"measured now, {threads()}"),
        ("The same with peft", peft[0], peft[1] if answer.weights else ""),
        ("Weights changed", f"{answer.changed / total:.2%}",
         f"{answer.changed:,} of {total:,}"),
        ("The base, to the bit", "unchanged" if same else "CHANGED",
         f"SHA-256 before {answer.before[:12]}…, after {answer.after[:12]}…"),
    ]  # fmt: skip
    return figures(cards)
