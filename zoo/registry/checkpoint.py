"""`Checkpoint`: a verified folder of weights that knows how they were made and are used."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from zoo.errors import MismatchError, MissingWeightsError, UnsafeFileError, newer
from zoo.files import read_json, sha256, write_bytes, write_json
from zoo.registry.catalogue import importable_models, weights_folder
from zoo.registry.layout import CARD, CONFIG, LICENSE, METRICS, UNSTATED, WEIGHTS, facts_file
from zoo.registry.recipe import FORMAT_VERSION, Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

OWN = "own"  # the tag of weights that are no one else's


def build(recipe: Recipe, shapes: Mapping[str, tuple[int, ...]] | None = None) -> "nn.Module":
    """Return the deployed network of a recipe, freshly initialised, in eval mode.

    Args:
        recipe: whose network.
        shapes: of the tensors that it will get, by name, if they are known: a structure that does
            not agree with them is refused before its layers are made.

    Raises:
        UnsafeFileError: the recipe names something other than a network of the zoo or of its
            installed extensions.
        MismatchError: there is no such network, it does not take the recipe's arguments, or the
            recipe's structure does not fit it.

    """
    import torch

    if recipe.of_transformers:
        raise MismatchError(
            f"{recipe.name} is a compressed language model: there is no network to build before "
            f"there are weights; type: zoo compress {recipe.name} --out runs/{recipe.name}"
        )
    module_name, class_name = recipe.model.split(":")
    if not f"{module_name}.".startswith("zoo.models.") and module_name not in importable_models():
        raise UnsafeFileError(
            f"recipe {recipe.name!r} names the model {recipe.model!r}; only zoo.models and the "
            "models of installed recipe packages are ever imported"
        )
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise MismatchError(f"model {recipe.model!r} of {recipe.name!r}: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
        raise UnsafeFileError(f"recipe {recipe.name!r} names {recipe.model!r}, not a network")
    try:
        network = kind(**recipe.args).eval()
    except (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError) as error:
        raise MismatchError(
            f"{recipe.model} of {recipe.name!r} cannot be built with {dict(recipe.args)}: {error}"
        ) from error
    if not recipe.structure:
        return network
    from zoo.models.structured.network import restructure

    return restructure(network, recipe.structure, shapes)


def try_out(recipe: Recipe) -> None:
    """Build a recipe's network with random weights, and show it an input.

    Raises:
        MismatchError: it cannot be built, or takes no input of the recipe's shape.

    """
    import torch

    network = build(recipe)
    try:
        with torch.inference_mode():
            network(torch.zeros(recipe.input_shape))
    except (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise MismatchError(
            f"{recipe.name} with the arguments {dict(recipe.args)} takes no input of "
            f"{recipe.input_shape}: {str(error).splitlines()[0]}"
        ) from error


@dataclass(frozen=True)
class Checkpoint:
    """A folder with `config.json`, `model.safetensors` and `metrics.json`.

    Attributes:
        path: the folder.
        recipe: how it was made, and everything needed to use it.
        config: the whole of `config.json`.
        metrics: the whole of `metrics.json`.

    """

    path: Path
    recipe: Recipe
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]

    @property
    def tag(self) -> str:
        """The set of weights, e.g. "bsds"."""
        return str(self.config["tag"])

    @property
    def label(self) -> str:
        """What to call these weights: `name.tag`, or `name.own` if that means others.

        A run has its recipe's default tag, under which this package may ship weights of its own.
        """
        shipped = f"{self.recipe.name}.{self.tag}"
        config = weights_folder() / shipped / CONFIG
        if config.is_file() and read_json(config)["files"].get(WEIGHTS) != self.config["files"].get(
            WEIGHTS
        ):
            return f"{self.recipe.name}.{OWN}"
        return shipped

    @property
    def license(self) -> str:
        """Licence of the weights, which depends on the data they were trained on."""
        return str(self.config["license"])

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a folder's config and metrics; the weights are verified when they are loaded.

        Raises:
            MissingWeightsError: the folder does not exist, or is not a checkpoint.
            MismatchError: its config has a newer format, or is broken.

        ```python
        import zoo
        from zoo.registry.checkpoint import Checkpoint

        checkpoint = Checkpoint.read(zoo.checkpoint("sesr-m5-x2").path)
        print(checkpoint.tag, checkpoint.recipe.input_shape)
        ```
        """
        path = Path(path)
        if not (path / CONFIG).is_file():
            reason = "no such folder" if not path.is_dir() else f"no {CONFIG} in it"
            raise MissingWeightsError(
                f"{path} is not a checkpoint ({reason}); make one with: zoo train NAME --out {path}"
            )
        file = facts_file(path)
        config = read_json(file)
        version = config.get("format_version")
        if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
            raise MismatchError(
                f"{file} has format_version {version!r}; this zoo reads 1 to "
                f"{FORMAT_VERSION} ({newer()})"
            )
        fields = {"recipe": dict, "tag": str, "license": str, "data": dict, "files": dict}
        for key, kind in fields.items():
            if not isinstance(config.get(key), kind):
                raise MismatchError(f"{file}: {key!r} is missing or not of type {kind.__name__}")
        recipe = Recipe.from_json(config["recipe"])
        needed = list(config["files"]) if recipe.of_transformers else [WEIGHTS]
        for name in needed or [WEIGHTS]:
            facts = config["files"].get(name)
            if not isinstance(facts, dict) or not {"sha256", "bytes"} <= set(facts):
                raise MismatchError(f"{file}: sha256 and bytes of {name} are missing")
        metrics = read_json(path / METRICS) if (path / METRICS).is_file() else {}
        return cls(path, recipe, config, metrics)

    @property
    def quantization(self) -> Mapping[str, Any] | None:
        """What makes it an integer network, or None; see `zoo.quantization.int8.network`."""
        return self.config.get("quantization")

    def state_dict(self) -> "dict[str, Tensor]":
        """Return the tensors, after verifying their file by size and SHA-256.

        Raises:
            MissingWeightsError: the file is missing.
            UnsafeFileError: it is not the file that the config describes.

        """
        import safetensors.torch
        from safetensors import SafetensorError

        expected = self.config["files"][WEIGHTS]["sha256"]
        file = self.path / WEIGHTS
        if not file.is_file():
            raise MissingWeightsError(f"{file} is missing; get the whole folder again")
        actual = sha256(file)
        if actual != expected:
            raise UnsafeFileError(
                f"{file} is corrupt or was tampered with: sha256 {actual[:16]}…, expected "
                f"{str(expected)[:16]}…; get the folder again, it was not opened"
            )
        try:
            return safetensors.torch.load_file(file)
        except SafetensorError as error:
            raise UnsafeFileError(f"{file} is not a valid safetensors file: {error}") from error

    def verify(self) -> None:
        """Compare every file with the size and SHA-256 recorded in the config.

        Raises:
            MissingWeightsError: a file is missing.
            UnsafeFileError: a file is not the one that the config describes.

        """
        for name, facts in self.config["files"].items():
            file = self.path / name
            if Path(name).name != name or not file.is_file():
                raise MissingWeightsError(f"{file} is missing; get the whole folder again")
            if file.stat().st_size != facts["bytes"] or sha256(file) != facts["sha256"]:
                raise UnsafeFileError(
                    f"{file} is corrupt or was tampered with: its sha256 is not that of "
                    f"{facts_file(self.path).name}; get the folder again, it was not opened"
                )

    def load(self) -> "nn.Module":
        """Return the deployed network with these weights, in eval mode; every tensor must fit.

        For a quantized network this is the float one; `zoo.load` returns the integer one.
        """
        if self.recipe.of_transformers:
            from zoo.quantization.opening import language_model

            self.verify()
            return language_model(self.path)
        tensors: Mapping[str, Tensor] = self.state_dict()
        if "factors" in self.recipe.structure:
            from zoo.quantization.opening import network_tensors

            tensors = network_tensors(tensors, self.recipe.structure)
        model = build(self.recipe, {name: tuple(t.shape) for name, t in tensors.items()})
        try:
            model.load_state_dict(tensors, strict=True)
        except RuntimeError as error:
            detail = " ".join(str(error).split())
            raise MismatchError(f"weights of {self.path} do not fit: {detail}") from error
        return model

    @classmethod
    def write(
        cls,
        path: Path,
        recipe: Recipe,
        tensors: "Mapping[str, Tensor]",
        metrics: Mapping[str, Any],
        *,
        tag: str | None = None,
        license: str = UNSTATED,
        data: Mapping[str, Any] | None = None,
        card: str | None = None,
        quantization: Mapping[str, Any] | None = None,
        beside: Mapping[str, bytes] | None = None,
    ) -> Self:
        """Write a checkpoint. A crash leaves the old one, the new one or none, never a mixture.

        The config is the first file removed from an old checkpoint and the last one written: a
        folder without config is not a checkpoint.

        Args:
            path: the folder.
            recipe: how the weights were made.
            tensors: the deployed network's tensors, by name.
            metrics: what was measured, for `metrics.json`.
            tag: name of the set of weights; None for the recipe's default.
            license: licence of the weights.
            data: what is known about the training data; `source` says where they come from.
            card: text of README.md; None for none.
            quantization: what makes it an integer network, see `quantization`.
            beside: further files, by name; they are verified and sent with the weights.

        """
        import safetensors.torch

        payload = safetensors.torch.save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            # A single entry: safetensors writes several in an order that differs from run to run.
            metadata={"format": "pt"},
        )
        (path / CONFIG).unlink(missing_ok=True)
        write_bytes(path / WEIGHTS, payload)
        for name, content in (beside or {}).items():
            write_bytes(path / name, content)
        write_json(path / METRICS, metrics)
        config = {
            "format_version": FORMAT_VERSION,
            "tag": tag or recipe.default_tag,
            "graph": "deployed",
            "license": license,
            "data": dict(data or {}),
            "recipe": recipe.to_json(),
            "files": {
                name: {"sha256": sha256(path / name), "bytes": (path / name).stat().st_size}
                for name in (WEIGHTS, *(beside or ()))
            },
        }
        if quantization is not None:
            config["quantization"] = dict(quantization)
        write_bytes(path / LICENSE, _license_text(config).encode())
        write_json(path / CONFIG, config)
        checkpoint = cls.read(path)
        if card is not None:
            checkpoint.write_card(card)
        return checkpoint

    def write_card(self, text: str) -> None:
        """Write the card as README.md."""
        write_bytes(self.path / CARD, text.encode())

    def record(self, name: str, result: Mapping[str, Any], part: str = "evaluations") -> Self:
        """Store a result under `name` in a part of `metrics.json`; return the new checkpoint."""
        results = {**self.metrics.get(part, {}), name: dict(result)}
        write_json(self.path / METRICS, {**self.metrics, part: results})
        return self.read(self.path)


def _license_text(config: Mapping[str, Any]) -> str:
    """Return what the folder's licence file says: the weights follow their data, not the code."""
    source = config["data"].get("source", "data that were not recorded")
    if "published" in config["data"]:
        return (
            f"The weights in this folder ({config['recipe']['name']}.{config['tag']}) are those of "
            f"{config['data']['published']},\ntrained on {source}.\n"
            f"Licence of that file, and hence of the weights: {config['license']}.\n"
            f"The code that uses them: {config['recipe']['license']}.\n"
        )
    return (
        f"The weights in this folder ({config['recipe']['name']}.{config['tag']}) were trained on "
        f"{source}.\nLicence of that data, and hence of the weights: {config['license']}.\n"
        f"The code that made and uses them: {config['recipe']['license']}.\n"
    )
