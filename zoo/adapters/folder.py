"""An adapter's folder: the sparse file, `adapter.json` with recipe and measurements, the card.

```
sparse_adapter.safetensors  indices and values (LoRA and DoRA: PEFT's two files instead)
adapter.json                format version, recipe, metrics, licence, sha256 of the file
README.md                   the card
```
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from zoo.adapters.recipe import AdapterRecipe
from zoo.errors import MismatchError, MissingWeightsError, UnsafeFileError, newer
from zoo.files import sha256, write_bytes, write_json
from zoo.registry.layout import UNSTATED

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.adapters.format import SparseAdapter

    Tensors = Mapping[str, tuple[Tensor, Tensor]]

CONFIG, FILE, CARD = "adapter.json", "sparse_adapter.safetensors", "README.md"
PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")
FORMAT_VERSION = 1


@dataclass(frozen=True)
class AdapterFolder:
    """A folder that `zoo adapter train` wrote.

    Attributes:
        path: the folder.
        recipe: how the adapter was made.
        metrics: what was measured, and how.
        file: the sparse adapter's file, which may be missing (LoRA and DoRA).

    """

    path: Path
    recipe: AdapterRecipe
    metrics: Mapping[str, Any]
    file: Path

    @property
    def license(self) -> str:
        """Licence of the adapter: the licence of its data."""
        return str(self.recipe.weights.get("license") or self.recipe.data.get("license", UNSTATED))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a folder.

        Raises:
            MissingWeightsError: the folder does not hold an adapter.
            MismatchError: its config is broken or of a newer format.
            UnsafeFileError: the file is not the one that the config describes.

        """
        try:
            config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        except OSError:
            raise MissingWeightsError(
                f"{path} is not an adapter (no {CONFIG} in it); make one with: zoo adapter train"
            ) from None
        except (ValueError, RecursionError) as error:
            raise MismatchError(f"{path / CONFIG} cannot be read as JSON: {error}") from error
        version = config.get("format_version") if isinstance(config, dict) else None
        if version != FORMAT_VERSION or not isinstance(config.get("recipe"), dict):
            raise MismatchError(
                f"{path / CONFIG} has format_version {version!r}; this zoo reads {FORMAT_VERSION} "
                f"({newer()})"
            )
        expected = config.get("sha256")
        file = path / FILE
        if expected is not None and (not file.is_file() or sha256(file) != expected):
            raise UnsafeFileError(
                f"{file} is missing, corrupt or was tampered with; get the folder again"
            )
        metrics = config.get("metrics")
        recipe = AdapterRecipe.from_json(config["recipe"])
        return cls(path, recipe, metrics if isinstance(metrics, dict) else {}, file)

    def record(self, name: str, facts: Mapping[str, Any]) -> Self:
        """Store a measurement under `name`; return the updated folder."""
        config = json.loads((self.path / CONFIG).read_text(encoding="utf-8"))
        config["metrics"] = {**self.metrics, name: dict(facts)}
        write_json(self.path / CONFIG, config)
        return self.read(self.path)

    def write_card(self, text: str) -> None:
        """Write the card as README.md."""
        write_bytes(self.path / CARD, text.encode())


def write_folder(
    path: Path,
    recipe: AdapterRecipe,
    content: "tuple[Tensors, Mapping[str, Tensor]] | SparseAdapter | None",
    metrics: Mapping[str, Any],
) -> AdapterFolder:
    """Write an adapter's folder, the config last.

    Args:
        path: the folder to write.
        recipe: goes into the config; its provenance also goes into the adapter's file.
        content: an adapter; or (indices, deltas) by tensor name and the pristine base's tensors;
            or None where PEFT's files are there already.
        metrics: go into the config.

    """
    from zoo.adapters.format import SparseAdapter

    (path / CONFIG).unlink(missing_ok=True)
    digest = None
    if content is not None:
        if not isinstance(content, SparseAdapter):
            facts = recipe.to_json()
            metadata = {key: facts[key] for key in ("name", "base", "method", "mask", "data")}
            content = SparseAdapter.from_tensors(*content, metadata=metadata)
        digest = sha256(content.save(path / FILE))
    config = {
        "format_version": FORMAT_VERSION,
        "recipe": recipe.to_json(),
        "metrics": dict(metrics),
        "sha256": digest,
    }
    license = recipe.data.get("license", UNSTATED)
    text = (
        f"The adapter in this folder ({recipe.name}) was trained on "
        f"{recipe.data.get('source', 'data that were not recorded')}.\n"
        f"Licence of that data, and hence of the adapter: {license}.\n"
        f"The base model, {recipe.base}, has a licence of its own.\n"
    )
    write_bytes(path / "LICENSE", text.encode())
    write_json(path / CONFIG, config)
    return AdapterFolder.read(path)
