"""`Recipe`: how to make and use a model, as plain data with a JSON round trip."""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from zoo.errors import MismatchError
from zoo.registry.codec import convert, from_json, to_json

FORMAT_VERSION = 1
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
Precision = Literal["no", "bf16", "fp16"]
OPTIMIZERS = {"adamw": "AdamW", "rmsprop": "RMSprop", "soap": "SOAP"}  # what cards call them
# Quantization-aware training: bits of the weights, in int8 tensors; activations are int8.
WEIGHT_BITS = {"int8": 8, "int8-w4": 4}


@dataclass(frozen=True, kw_only=True)
class Train:
    """How a recipe is trained. Every field can be overridden: `--set train.lr=1e-3`.

    Attributes:
        steps: optimizer steps.
        batch_size: samples per process and micro-batch (the convention of Accelerate).
        lr: peak learning rate; linear warm-up, then cosine to zero.
        optimizer: "adamw", "rmsprop", or "soap" (see `zoo.training.optimizers`).
        warmup_steps: steps of the linear warm-up; at most a fifth of `steps` are taken.
        weight_decay: decoupled weight decay; of "rmsprop" a part of the gradient.
        ema_decay: the weights kept are an exponential moving average; 0 turns it off. At most
            1 - 2/`steps` is taken.
        clip_norm: bound on the gradient norm; 0 turns it off.
        sharpness: radius of sharpness-aware steps, e.g. 0.2, of two passes each; 0 turns them off
            (see `zoo.training.updates`).
        accumulation_steps: micro-batches per optimizer step.
        precision: mixed precision of Accelerate ("no", "bf16", "fp16").
        compile: torch.compile the training form: the same arithmetic, fused into fewer passes over
            memory, and hence rounded differently.
        seed: seed of the initial weights and of every batch.
        init: ref of a checkpoint to start from (warm start), or None.
        teacher: ref of a checkpoint whose outputs replace the data's targets
            (distillation), or None.
        quant: quantization-aware training: "int8", "int8-w4" (weights of 4 bits), or None.
        log_every: steps between two lines of `log.jsonl`.
        eval_every: steps between two evaluations on the held-out images.
        save_every: steps between two resumable states on disk.
        patience: evaluations in a row, none better than the best before, after which training
            stops; 0 never does.
        options: settings of only this task or this model's training form.

    """

    steps: int
    batch_size: int
    lr: float
    optimizer: str = "adamw"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    ema_decay: float = 0.0
    clip_norm: float = 0.0
    sharpness: float = 0.0
    accumulation_steps: int = 1
    precision: Precision = "no"
    compile: bool = False
    seed: int = 0
    init: str | None = None
    teacher: str | None = None
    quant: str | None = None
    log_every: int = 100
    eval_every: int = 1000
    save_every: int = 1000
    patience: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positive = "steps batch_size accumulation_steps log_every eval_every save_every"
        zero = "warmup_steps weight_decay clip_norm sharpness seed patience"
        for name, least in (
            *((name, 1) for name in positive.split()),
            *((name, 0) for name in zero.split()),
        ):
            if not least <= getattr(self, name) < math.inf:
                raise MismatchError(
                    f"train.{name} is {getattr(self, name)}; expected at least {least}"
                )
        if self.seed >= 2**32:
            raise MismatchError(f"train.seed is {self.seed}; expected less than 2**32")
        if not 0 < self.lr < math.inf:
            raise MismatchError(f"train.lr is {self.lr}; expected a positive number")
        if self.optimizer not in OPTIMIZERS:
            known = ", ".join(OPTIMIZERS)
            raise MismatchError(f"train.optimizer is {self.optimizer!r}; expected {known}")
        if self.quant not in (None, *WEIGHT_BITS):
            known = ", ".join(WEIGHT_BITS)
            raise MismatchError(f"train.quant is {self.quant!r}; expected none or {known}")
        if self.sharpness and (self.quant is not None or self.precision == "fp16"):
            what = "train.quant" if self.quant is not None else "train.precision fp16"
            raise MismatchError(f"train.sharpness does not go with {what}; leave one of them out")
        if not 0 <= self.ema_decay < 1:
            raise MismatchError(f"train.ema_decay is {self.ema_decay}; expected 0 <= decay < 1")


@dataclass(frozen=True, kw_only=True)
class Compress:
    """How a model is made smaller.

    Attributes:
        base: the model it is made from: `name[.tag]`, org/repo[@revision], or the name of a folder.
        method: a compression method, e.g. "gptvq", "int8"; `zoo compress --help` lists them.
        options: options of the method, its `Options` as JSON, e.g. {"bits": 2, "dim": 2}.

    """

    base: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read `Compress`; what format 1 had next to `options` is now one of them."""
        own = {name: item for name, item in value.items() if name in ("base", "method", "options")}
        beside = {name: item for name, item in value.items() if name not in own}
        options = own.get("options", {})
        if isinstance(options, Mapping):
            own["options"] = {**options, **beside}
        return from_json(cls, own, "recipe.compress")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to make a model, and everything needed to use it.

    There are two kinds: one says how a model is trained, the other what it is compressed from.

    Attributes:
        name: what users type, e.g. "sesr-m5-x2".
        summary: one line for people.
        task: the Hub's `pipeline_tag`, e.g. "image-to-image".
        subtask: the module of `zoo.tasks` that feeds and judges it, e.g. "super-resolution".
        model: "module:class" of the deployed network, imported on use.
        args: keyword arguments of that class.
        input_shape: the shape costs refer to, e.g. (N, C, H, W) = (1, 1, 360, 640).
        preprocessing: how the input tensor is made, in the task's own terms.
        make: how it is made: trained, or compressed from another model.
        default_tag: the set of weights that the bare name means.
        paper: arXiv id of the paper.
        license: SPDX id of the recipe's code (weights have their own).
        structure: which layers hold their matrices in forms; see `zoo.models.structured.network`.
        tiny: overrides, {"args": {...}, "train": {...}}, that make it small enough to train for a
            few steps in a test; not part of its JSON, and ignored in comparisons.

    ```python
    import zoo
    from zoo.registry.recipe import Recipe

    recipe = zoo.find("sesr-m5-x2").override({"train.steps": 100, "train.lr": "1e-3"})
    assert Recipe.from_json(recipe.to_json()) == recipe
    ```
    """

    name: str
    summary: str
    task: str
    subtask: str
    model: str
    args: Mapping[str, Any]
    input_shape: tuple[int, ...]
    preprocessing: Mapping[str, Any]
    make: Train | Compress
    default_tag: str
    paper: str
    license: str = "Apache-2.0"
    structure: Mapping[str, Any] = field(default_factory=dict)
    tiny: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.tiny) - {"args", "train"}):
            raise MismatchError(f"{self.name}.tiny has {unknown[0]!r}; expected args and train")
        if not isinstance(self.make, Train | Compress):
            raise MismatchError(f"{self.name}.make is {self.make!r}; expected Train or Compress")
        for value in (self.name, self.default_tag):
            if not NAME.fullmatch(value):
                raise MismatchError(
                    f"{value!r} is not a name; expected lower-case letters, digits, single hyphens"
                )
        if not re.fullmatch(r"[\w.]+:\w+", self.model):
            raise MismatchError(f"model is {self.model!r}; expected 'module:class'")

    @property
    def train(self) -> Train:
        """How it is trained.

        Raises:
            MismatchError: it is not trained but compressed.

        """
        if isinstance(self.make, Train):
            return self.make
        raise MismatchError(
            f"{self.name} is not trained but compressed; type: zoo compress {self.name} "
            f"--data DATA --out runs/{self.name}"
        )

    @property
    def compress(self) -> Compress:
        """What it is compressed from, and how.

        Raises:
            MismatchError: it is not compressed but trained.

        """
        if isinstance(self.make, Compress):
            return self.make
        raise MismatchError(
            f"{self.name} is not compressed but trained; type: zoo train {self.name} --data DIR "
            f"--out runs/{self.name}"
        )

    @property
    def of_transformers(self) -> bool:
        """Whether its weights are a language model's folder that transformers opens."""
        return self.model.startswith("transformers:")

    @property
    def family(self) -> str:
        """Name of the module or package of the architecture: "sesr"; of the base: "smollm2"."""
        if isinstance(self.make, Compress) and self.of_transformers:
            return re.split(r"[^a-z0-9]", self.make.base.split("/")[-1].lower())[0]
        module = self.model.split(":")[0]
        own = module.removeprefix("zoo.models.")
        return own.partition(".")[0] if own != module else module.rpartition(".")[2]

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON types; `Recipe.from_json` returns an equal recipe.

        `make` is stored under its kind: "train" or "compress".
        """
        value: dict[str, Any] = to_json(self)
        del value["tiny"]
        if not value["structure"]:
            del value["structure"]
        made = value["train" if isinstance(self.make, Train) else "compress"] = value.pop("make")
        if isinstance(self.make, Train) and not self.make.sharpness:
            del made["sharpness"]  # as recipes that are older than this field have it
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Build a recipe from `to_json`; unknown fields and wrong types are a MismatchError."""
        fields = dict(value)
        kinds = [kind for kind in ("train", "compress") if kind in fields]
        if "tiny" in fields:
            raise MismatchError(f"recipe {value.get('name')!r} has unknown field 'tiny'")
        if len(kinds) != 1 or "make" in fields:
            raise MismatchError(f"recipe {value.get('name')!r} must have one of train and compress")
        make = fields.pop(kinds[0])
        if not isinstance(make, Mapping):
            raise MismatchError(f"recipe.{kinds[0]} is {make!r}; expected {kinds[0].title()}")
        made: Train | Compress
        if kinds[0] == "train":
            made = from_json(Train, make, "recipe.train")
        else:
            made = Compress.from_json(make)
        return from_json(cls, {**fields, "make": made}, "recipe")

    def in_tiny_form(self) -> Self:
        """Return the recipe with the overrides of `tiny`."""
        tiny = dataclasses.replace(self, args={**self.args, **self.tiny.get("args", {})})
        return tiny.override(self.tiny["train"]) if "train" in self.tiny else tiny

    def override(self, settings: Mapping[str, Any]) -> Self:
        """Return a copy with other training settings: {"train.lr": "1e-3"} or {"lr": 1e-3}.

        Values may be texts; they are read as the field's type. `train.options.<name>` reaches an
        existing option; "none" removes it. `args.<name>` is an argument of the model.

        Raises:
            MismatchError: there is no such setting, or the recipe is of the other kind.

        """
        from zoo.registry import arguments

        train = to_json(self.train)
        own = {key: value for key, value in settings.items() if key.startswith(arguments.PREFIX)}
        args = arguments.changed(self.args, own, arguments.settable(self.args, self.preprocessing))
        for key, value in settings.items():
            if key in own:
                continue
            path = key.removeprefix("train.").split(".")
            target = train["options"] if path[0] == "options" and len(path) == 2 else train
            if path[-1] not in target or (target is train and len(path) != 1):
                known = [*(f"train.{k}" for k in train if k != "options")]
                known += [f"train.options.{k}" for k in train["options"]]
                raise MismatchError(f"no setting {key!r}; known: {', '.join(known)}")
            if target is not train and value in (None, "none"):
                del target[path[-1]]
                continue
            if target is not train:
                value = convert(value, type(target[path[-1]]), key)
            target[path[-1]] = value
        return dataclasses.replace(self, args=args, make=from_json(Train, train, "train"))
