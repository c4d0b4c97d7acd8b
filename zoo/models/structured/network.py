"""A network some of whose layers hold their matrices in forms, and the JSON that says which.

```json
{"version": 1, "forms": {"blocks.0.fc1": {"lowrank": {"rank": 20}}}}
```

Later versions may also have: 2, layers with fewer filters (`zoo.models.structured.narrow`); 3,
operators without division (`zoo.models.approximate.swap`); 4, factors that are stored on a grid
(`zoo.quantization.factors`).
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from zoo.errors import MismatchError, newer
from zoo.models.approximate.swap import is_swapped, swap_as
from zoo.models.structured.composed import from_json
from zoo.models.structured.forms import Form
from zoo.models.structured.layers import Structured, StructuredConv2d, StructuredLinear
from zoo.models.structured.narrow import is_narrowed, narrow, sizes_of

METHOD = "edge-zoo-forms"  # what a `config.json` of transformers calls it
VERSION = 4
_SINCE = {"version": 1, "forms": 1, "narrowed": 2, "ops": 3, "factors": 4}
Shapes = Mapping[str, tuple[int, ...]]


def forms_of(structure: Mapping[str, Any]) -> dict[str, Form]:
    """Return the form of each layer that has one, by the layer's name; {} of an empty structure.

    Raises:
        MismatchError: the structure is of a newer version, or not one.
        UnknownNameError: it names a form that does not exist.

    """
    if not structure:
        return {}
    version = structure.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise MismatchError(
            f"structure has version {version!r}; this zoo reads 1 to {VERSION} ({newer()})"
        )
    forms = structure.get("forms")
    known = {key for key, since in _SINCE.items() if since <= version}
    if not isinstance(forms, Mapping) or not {"version", "forms"} <= set(structure) <= known:
        raise MismatchError(
            f"structure has {', '.join(map(str, structure))}; expected version and forms, the form "
            "of each layer by its name"
        )
    return {str(name): from_json(form, str(name)) for name, form in forms.items()}


def structure_of(forms: Mapping[str, Form]) -> dict[str, Any]:
    """Return the JSON of the forms of some layers; {} of none."""
    if not forms:
        return {}
    return {"version": 1, "forms": {name: form.to_json() for name, form in forms.items()}}


def takes_forms(layer: nn.Module) -> bool:
    """Whether a layer's matrix can have another form: a linear one, or a convolution of torch."""
    if type(layer) is nn.Conv2d:
        return layer.groups == 1 and layer.padding_mode == "zeros"
    return type(layer) is nn.Linear


def matrix_shape(layer: nn.Module) -> tuple[int, int]:
    """Return (m, n) of a layer that takes forms."""
    weight = layer.get_parameter("weight")
    return len(weight), weight[0].numel()


def structured(layer: nn.Module, form: Form) -> Structured:
    """Return a layer of the same sizes in a form, freshly initialised.

    Raises:
        MismatchError: the layer takes no forms, or not this one.

    """
    if isinstance(layer, nn.Conv2d) and takes_forms(layer):
        return StructuredConv2d.like(layer, form)
    if isinstance(layer, nn.Linear) and takes_forms(layer):
        return StructuredLinear.like(layer, form)
    raise MismatchError(
        f"a {type(layer).__name__} takes no form; expected a linear layer, or a convolution "
        "without groups"
    )


def restructure(
    network: nn.Module, structure: Mapping[str, Any], shapes: Shapes | None = None
) -> nn.Module:
    """Give a dense network its structure, in place; return it.

    Args:
        network: freshly built; the layers that it keeps are left alone.
        structure: see `forms_of`.
        shapes: of the tensors that will be loaded, by name; forms that do not agree with them are
            refused before any layer is made.

    Raises:
        MismatchError, UnknownNameError: see `forms_of`; a layer is not there or does not take its
            form, the form and the tensors do not agree, or there is no such operator.

    """
    forms = forms_of(structure)
    if sizes := sizes_of(structure):
        narrow(network, sizes, shapes)
    modules = dict(network.named_modules())
    for name, form in forms.items():
        if name not in modules or not takes_forms(modules[name]):
            what = f"is a {type(modules[name]).__name__}" if name in modules else "is not there"
            raise MismatchError(
                f"structure gives {name!r} a form, which {what}; expected a linear layer, or a "
                "convolution without groups"
            )
        try:
            expected = form.shapes(*matrix_shape(modules[name]))
        except MismatchError as error:
            raise MismatchError(f"layer {name!r}: {error}") from error
        if shapes is not None:
            _agree(name, expected, shapes)
    for name, form in forms.items():
        parent, _, own = name.rpartition(".")
        made = structured(modules[name], form).train(modules[name].training)
        setattr(network.get_submodule(parent), own, made)
    if "ops" in structure:
        swap_as(network, structure["ops"])
    return network


def _agree(name: str, expected: Shapes, shapes: Shapes) -> None:
    """Raise if the factors of a form are not among the tensors."""
    for factor, shape in expected.items():
        stored = shapes.get(f"{name}.{factor}")
        if stored != shape:
            given = "is not there" if stored is None else f"is {stored}"
            raise MismatchError(
                f"structure and tensors disagree: {name}.{factor} {given}; its form needs {shape}"
            )


def is_structured(network: nn.Module) -> bool:
    """Whether any of its layers is in a form or has fewer filters, or an operator was exchanged."""
    in_forms = any(isinstance(module, Structured) for module in network.modules())
    return in_forms or is_narrowed(network) or is_swapped(network)
