"""What is done with each layer: options by name, and how much calibration."""

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

from zoo.errors import MismatchError
from zoo.quantization.options import LayerOptions

Rotation = Literal["", "heads", "all", "all-untied"]
ROTATIONS = get_args(Rotation)[1:]  # see zoo.quantization.language.rotate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """What is done with each layer, and what is done besides quantizing layers.

    Attributes:
        overrides: shell-style pattern of layer names -> options that differ there, e.g.
            {"*.11.mlp.down_proj": {"bits": 3}}; the first matching pattern counts.
        skip: patterns of layers left as they are.
        windows: calibration windows.
        length: tokens of a window.
        seed: seed of the choice of windows and of the rotations.
        rest_dtype: type of all other floating-point tensors in the result; None keeps theirs.
        embeddings: bits of the rows of embedding and head, 8; 0 leaves them floats.
        rotate: random rotations folded into the weights before they are quantized, which spreads
            outliers; it takes the model's size on disk once more while the job runs.
        awq: scales that protect the columns of large inputs, folded into the weights before they
            are quantized to integers; as `rotate`, it takes the model's size once more.
        budget: stored bits per weight over all layers, shared out by what their errors cost the
            model; layers with their own overrides do not take part; 0 treats all layers alike.
        tune_steps: steps of tuning codebooks, scales and norms end to end with the codes fixed.
        tune_length: tokens of a window of tuning; one window a step.
        tune_lr: learning rate of tuning.
        tune_weights: with tuning, the weights are trained too, through their rounding, and codes
            follow them: the largest step, as a fraction of a matrix's root mean square (0.003);
            0 keeps the codes.

    """

    overrides: Mapping[str, Mapping[str, Any]] = dataclasses.field(
        default_factory=dict, metadata={"flags": ("--override",)}
    )
    skip: tuple[str, ...] = ()
    windows: int = 32
    length: int = 1024
    seed: int = 0
    rest_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    embeddings: int = 0
    rotate: Rotation = ""
    awq: bool = False
    budget: float = 0.0
    tune_steps: int = dataclasses.field(default=0, metadata={"flags": ("--tune",)})
    tune_length: int = 512
    tune_lr: float = 0.005
    tune_weights: float = 0.0


KEYS = tuple(field.name for field in dataclasses.fields(Schedule))


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantizationPlan(Schedule):
    """How to quantize a model.

    Attributes:
        options: options of every layer that no override names.
        least_tokens: a layer that fewer tokens reached (an expert of a mixture) is quantized
            with the identity for its Hessian.
        row_parts: parts in which the rows of a layer are swept, for as many processes; a codebook
            belongs to one part, so the number is part of the result.
        hidden_dtype: type of the hidden states kept on disk, "float32" or "bfloat16".

    """

    options: LayerOptions
    least_tokens: int = 128
    row_parts: int = 1
    hidden_dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, least in (
            ("windows", 1),
            ("length", 2),
            ("least_tokens", 0),
            ("row_parts", 1),
            ("tune_steps", 0),
            ("tune_length", 2),
            ("budget", 0),
            ("tune_weights", 0),
        ):
            if getattr(self, name) < least:
                raise MismatchError(f"{name} is {getattr(self, name)}; expected at least {least}")
        for name in ("hidden_dtype", "rest_dtype"):
            value = getattr(self, name)
            allowed = ("float32", "bfloat16", *(("float16", None) if name == "rest_dtype" else ()))
            if value not in allowed:
                raise MismatchError(f"{name} is {value!r}; expected one of {allowed}")
        if self.rotate not in ("", *ROTATIONS):
            raise MismatchError(
                f"rotate is {self.rotate!r}; expected one of {', '.join(ROTATIONS)}, or nothing"
            )
        if self.tune_weights and not self.tune_steps:
            raise MismatchError("tune_weights trains in the steps of tuning: add --tune STEPS")
        if self.awq and "codebook" in {options.grid for options in self._every}:
            raise MismatchError(
                "awq scales what is rounded to integers; codebooks are fitted to their columns: "
                "take --method rtn or gptq, or leave out --awq"
            )
        if self.embeddings not in (0, 8):
            raise MismatchError(f"embeddings is {self.embeddings!r}; expected 0 or 8 bits")
        for pattern in self.overrides:
            self._changed(pattern)

    @classmethod
    def read(cls, method: str, options: Mapping[str, Any]) -> Self:
        """Return the plan that a recipe's method and options describe.

        Raises:
            MismatchError, UnknownNameError: options are unknown to the method or contradict each
                other.

        """
        plan = {key: value for key, value in options.items() if key in KEYS}
        layers = {key: value for key, value in options.items() if key not in KEYS}
        plan["skip"] = tuple(plan.get("skip", ()))
        return cls(options=LayerOptions.from_dict({"method": method, **layers}), **plan)

    def of(self, name: str) -> LayerOptions | None:
        """Return the options of a layer, or None if it stays as it is."""
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in self.skip):
            return None
        for pattern in self.overrides:
            if fnmatch.fnmatchcase(name, pattern):
                return self._changed(pattern)
        return self.options

    def _changed(self, pattern: str) -> LayerOptions:
        """Return the options with the changes of an override; a new grid drops the group size."""
        changes = dict(self.overrides[pattern])
        base = self.options.to_dict()
        before = base.get("grid")
        usual, own = (
            LayerOptions(method=name).grid
            for name in (self.options.method, changes.get("method", self.options.method))
        )
        if usual != own:  # codebooks instead of a format
            base.pop("grid", None)
        if changes.get("grid", base.get("grid")) != before:
            base.pop("bits", None)
            base.pop("dim", None)
        new = {"method", "bits", "dim", "grid"} & set(changes)
        if new and not {"group_size", "target_bpv"} & set(changes):
            base.pop("group_size", None)
            base.pop("target_bpv", None)
        return LayerOptions.from_dict({**base, **changes})

    @property
    def calibrates(self) -> bool:
        """Say whether a text is needed."""
        return self.awq or self.learns

    @property
    def learns(self) -> bool:
        """Say whether any layer needs to see inputs when it is quantized."""
        return any(options.solver != "rtn" for options in self._every)

    @property
    def rewrites(self) -> bool:
        """Say whether the weights that are packed are not the base's."""
        return self.awq or bool(self.rotate)

    @property
    def _every(self) -> list[LayerOptions]:
        """The options of all layers."""
        return [self.options, *(self._changed(pattern) for pattern in self.overrides)]

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON types."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            **fields,
            "options": self.options.to_dict(),
            "overrides": {key: dict(value) for key, value in self.overrides.items()},
            "skip": list(self.skip),
        }
