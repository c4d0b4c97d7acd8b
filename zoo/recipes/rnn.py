"""Recurrent keyword spotters whose matrices are in forms (arXiv 1906.02876, 2010.03193).

The papers' KP has Kronecker products, HKP dense rows over them, HMF dense rows over rank 1.
"""

from dataclasses import replace
from typing import Any

from zoo.recipes.micronets import TRAIN, WORDS
from zoo.registry.recipe import Recipe

# Factors take no weight decay: it would shrink their product twice.
_TRAIN = replace(TRAIN, lr=5e-3, weight_decay=0.0, clip_norm=1.0, precision="no")
_PAPERS = {"kp": "1906.02876", "hkp": "1906.02876", "hmf": "2010.03193"}
_GATES = 4
_SPREAD = (16, 4, 2, 2, 2, 1, 1, 1, 1, 1)  # about the deviation of each coefficient of speech


def _kron(a: int, b: int) -> dict[str, Any]:
    return {"kron": {"a": a, "b": b}}


def _rows(dense: int, below: dict[str, Any]) -> dict[str, Any]:
    return {"rows": {"dense": dense, "below": below, "gates": _GATES}}


def _recipe(
    kind: str, what: str, hidden: int, of_inputs: dict[str, Any], of_state: dict[str, Any]
) -> Recipe:
    return Recipe(
        name=f"kws-lstm-{kind}".removesuffix("-"),
        summary=f"Keyword spotting by an LSTM, {what}; twelve words",
        task="audio-classification",
        subtask="keyword-spotting",
        model="zoo.models.rnn:KeywordLstm",
        args={
            "inputs": 10,
            "hidden": hidden,
            "num_classes": len(WORDS),
            "of_inputs": of_inputs,
            "of_state": of_state,
            "spread": list(_SPREAD),
        },
        input_shape=(1, 1, 49, 10),
        preprocessing={"front_end": "mfcc-micronets", "samples": 16000, "labels": list(WORDS)},
        make=_TRAIN,
        default_tag="fsdd",
        paper=_PAPERS.get(kind, "1906.02876"),
        tiny={
            "args": {"hidden": 8, "of_inputs": _kron(4, 2), "of_state": _kron(4, 2)},
            "train": {"batch_size": 4},
        },
    )


_LOW = {"lowrank": {"rank": 1}}

RECIPES = (
    # The papers' network, 62,316 numbers. 118 is twice a prime, which has no balanced factors: the
    # others have 120 units.
    _recipe("", "all of its matrices dense", 118, {"dense": {}}, {"dense": {}}),
    _recipe("kp", "Kronecker products in place of its matrices", 120, _kron(8, 2), _kron(8, 2)),
    _recipe(
        "hkp", "dense rows over Kronecker products", 120,
        _rows(10, _kron(8, 2)), _rows(10, _kron(8, 2)),
    ),
    _recipe("hmf", "dense rows over rank 1", 120, _rows(15, _LOW), _rows(15, _LOW)),
)  # fmt: skip
