"""`Recipe`: how to make and use a model, as plain data with a JSON round trip."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeVar, get_type_hints

from zoo.errors import MismatchError

FORMAT_VERSION = 1
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
Precision = Literal["no", "bf16", "fp16"]
OPTIMIZERS = {"adamw": "AdamW", "soap": "SOAP"}  # what cards call them
# Quantization-aware training: bits of the weights, in int8 tensors; activations are int8.
WEIGHT_BITS = {"int8": 8, "int8-w4": 4}
T = TypeVar("T")


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Return `value`, from JSON or from a `--set` text, as the type a field is declared with."""
    text = isinstance(value, str)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        if hint is bool and text and value in ("true", "false"):
            return value == "true"
        if hint is int and (text or (number and isinstance(value, int))):
            return int(value)
        if hint is float and (text or number) and math.isfinite(float(value)):
            return float(value)
        if hint in (bool, str) and isinstance(value, hint):
            return value
        if hint == (Compress | None):
            return None if value is None else _convert(value, Compress, where)
        if hint == (str | None) and (value is None or text):
            return None if value in (None, "none") else value
        if hint == Precision and value in ("no", "bf16", "fp16"):
            return value
        if hint in (tuple[int, ...], tuple[str, ...]) and isinstance(value, list | tuple):
            item_hint = int if hint == tuple[int, ...] else str
            return tuple(_convert(item, item_hint, where) for item in value)
        if hint == Mapping[str, Any] and isinstance(value, Mapping):
            return dict(value)
        if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
            return from_json(hint, value, where)  # type: ignore[arg-type]
    except MismatchError:  # of a part, with its own place and value
        raise
    except (ValueError, OverflowError):
        pass
    wanted = getattr(hint, "__name__", str(hint)) if hint is not Precision else "no, bf16 or fp16"
    raise MismatchError(f"{where} is {value!r}; expected {wanted}")


def from_json(kind: type[T], value: Mapping[str, Any], where: str = "recipe") -> T:
    """Build the dataclass `kind` from a mapping, checking every name and type."""
    hints = get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    if unknown:
        raise MismatchError(
            f"{where} has unknown field {unknown[0]!r}; known: {', '.join(sorted(hints))}"
        )
    fields = {name: _convert(item, hints[name], f"{where}.{name}") for name, item in value.items()}
    try:
        return kind(**fields)
    except TypeError as error:  # a required field is missing: the dataclass names it
        raise MismatchError(f"{where}: {str(error).split(') ', 1)[-1]}") from error


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by dotted path, e.g. "train.lr"."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    items = (leaves(v, f"{prefix}.{k}" if prefix else str(k)) for k, v in value.items())
    return {key: leaf for part in items for key, leaf in part.items()}


@dataclass(frozen=True, kw_only=True)
class Train:
    """How a recipe is trained. Every field can be overridden: `--set train.lr=1e-3`.

    Attributes:
        steps: optimizer steps.
        batch_size: samples per process and micro-batch (the convention of Accelerate).
        lr: peak learning rate; linear warm-up, then cosine to zero.
        optimizer: "adamw", or "soap" (see `zoo.training.optimizers.Soap`).
        warmup_steps: steps of the linear warm-up.
        weight_decay: decoupled.
        ema_decay: the weights kept are an exponential moving average; 0 turns it off.
        clip_norm: gradient norm bound; 0 turns it off.
        accumulation_steps: micro-batches per optimizer step.
        precision: mixed precision of Accelerate ("no", "bf16", "fp16").
        compile: torch.compile the training form: the same arithmetic in fewer passes over memory,
            fused, hence rounded otherwise.
        seed: of the initial weights and of every batch.
        init: ref of a checkpoint to start from (warm start), or None.
        teacher: ref of a checkpoint whose outputs are learned in place of the data's targets
            (distillation), or None.
        quant: quantization-aware training: "int8", "int8-w4" (weights of 4 bits), or None.
        log_every: steps between two lines of `log.jsonl`.
        eval_every: steps between two evaluations on the held-out images.
        save_every: steps between two resumable states on the disk.
        options: what only this task or this model's training form knows.

    """

    steps: int
    batch_size: int
    lr: float
    optimizer: str = "adamw"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    ema_decay: float = 0.0
    clip_norm: float = 0.0
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
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positive = "steps batch_size accumulation_steps log_every eval_every save_every"
        for name, least in (
            *((name, 1) for name in positive.split()),
            *((name, 0) for name in ("warmup_steps", "weight_decay", "clip_norm", "seed")),
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
        if not 0 <= self.ema_decay < 1:
            raise MismatchError(f"train.ema_decay is {self.ema_decay}; expected 0 <= decay < 1")


@dataclass(frozen=True, kw_only=True)
class Compress:
    """How a language model is made smaller.

    Attributes:
        base: of the model it is made from: org/repo[@revision], or the name of a folder.
        method: "rtn", "gptq" or "gptvq".
        options: of the method, e.g. {"bits": 2, "dim": 2}: see `zoo.quantization.LayerOptions`.
        overrides: pattern of layer names -> options that differ there.
        skip: patterns of layers that are left as they are.
        windows: windows of the calibration text.
        length: tokens of a window.
        seed: of the choice of windows.
        rest_dtype: type of the other tensors in the result; None keeps theirs.
        embeddings: bits of the rows of embedding and head, 8; 0 leaves them floats.
        rotate: rotations folded into the weights first: "heads", "all", "all-untied", or "": none.
        budget: stored bits per weight, shared out between the layers; 0: all layers alike.
        tune_steps: of tuning codebooks, scales and norms end to end; 0: none.
        tune_length: tokens of a step.
        tune_lr: of the tuning.

    """

    base: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    windows: int = 32
    length: int = 1024
    seed: int = 0
    rest_dtype: str | None = None
    embeddings: int = 0
    rotate: str = ""
    budget: float = 0.0
    tune_steps: int = 0
    tune_length: int = 512
    tune_lr: float = 0.005


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to make a model, and everything needed to use it.

    There are two kinds: one says how it is trained, the other how it is compressed.

    Attributes:
        name: what users type, e.g. "sesr-m5-x2".
        summary: one line for people.
        task: the Hub's `pipeline_tag`, e.g. "image-to-image".
        subtask: the module of `zoo.tasks` that feeds and judges it, e.g. "super-resolution".
        model: "module:class" of the deployed network, imported on use.
        args: arguments of that class.
        input_shape: the shape costs refer to, e.g. (N, C, H, W) = (1, 1, 360, 640).
        preprocessing: what the input tensor is made from, in the task's own words.
        train: how it is trained; None in a recipe of the other kind.
        compress: from what and how it is compressed; None in a recipe of the other kind.
        default_tag: the set of weights that the bare name means.
        paper: arXiv id.
        license: SPDX id of the recipe's code (weights have their own).

    """

    name: str
    summary: str
    task: str
    subtask: str
    model: str
    args: Mapping[str, Any]
    input_shape: tuple[int, ...]
    preprocessing: Mapping[str, Any]
    # Typed without None: what trains a recipe is only ever given one that says how.
    train: Train = None  # type: ignore[assignment]
    compress: Compress | None = None
    default_tag: str
    paper: str
    license: str = "Apache-2.0"

    def __post_init__(self) -> None:
        if (self.train is None) == (self.compress is None):
            raise MismatchError(f"recipe {self.name!r} must say one of train and compress")
        for value in (self.name, self.default_tag):
            if not NAME.fullmatch(value):
                raise MismatchError(
                    f"{value!r} is no name; expected lower-case letters, digits and single hyphens"
                )
        if not re.fullmatch(r"[\w.]+:\w+", self.model):
            raise MismatchError(f"model is {self.model!r}; expected 'module:class'")

    @property
    def family(self) -> str:
        """Name of the module that holds the architecture: "sesr"; of the base model: "smollm2"."""
        if self.compress is not None:
            return re.split(r"[^a-z0-9]", self.compress.base.split("/")[-1].lower())[0]
        return self.model.split(":")[0].rsplit(".", 1)[-1]

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON types; `Recipe.from_json` gives an equal recipe back."""
        value: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self), allow_nan=False))
        del value["train" if self.compress is not None else "compress"]
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Build a recipe from `to_json`; unknown fields and wrong types are a MismatchError."""
        return from_json(cls, value)

    def override(self, settings: Mapping[str, Any]) -> Self:
        """Return a copy with other training settings: {"train.lr": "1e-3"} or {"lr": 1e-3}.

        Values may be texts; they are read as the field's type. `train.options.<name>` reaches
        an existing option; "none" takes it away.

        Raises:
            MismatchError: no such setting, or the recipe is of the other kind.

        """
        if self.compress is not None:
            raise MismatchError(
                f"{self.name} is not trained but compressed; type: zoo compress {self.name} "
                f"--data TEXT --out runs/{self.name}"
            )
        train = self.to_json()["train"]
        for key, value in settings.items():
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
                value = _convert(value, type(target[path[-1]]), key)
            target[path[-1]] = value
        return dataclasses.replace(self, train=from_json(Train, train, "train"))
