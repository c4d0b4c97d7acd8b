"""The task: whether a series of numbers rises. Rows of CSV files: 0 or 1, and the numbers."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo import registry
from zoo.errors import MismatchError
from zoo.registry.checkpoint import build
from zoo.tasks.contract import Metric, TaskFacts, Trial, short

FACTS = TaskFacts(
    name="acme-trend",
    pipeline_tag="tabular-classification",
    sample="row",
    metrics=(Metric(key="accuracy", name="accuracy", hub_type="accuracy"),),
    select_by="accuracy",
)


@dataclass(frozen=True)
class Answer:
    """What `zoo run` gives."""

    text: str

    def to_json(self) -> dict[str, Any]:
        return {"answer": self.text}

    def save(self, path: Path) -> Path:
        path.write_text(f"{self.text}\n")
        return path


@dataclass(frozen=True)
class Series:
    """What is trained on, and what is held out."""

    train: Tensor
    held_out: Tensor
    fingerprint: str
    facts: dict[str, Any]


def _read(path: Path) -> Tensor:
    try:
        rows = path.read_text(encoding="utf-8").split()
        return torch.tensor([[float(number) for number in row.split(",")] for row in rows])
    except (OSError, ValueError) as error:
        raise MismatchError(f"{path}: {error}; expected rows like 1,0.5,-0.2") from error


def training_data(recipe, source, tokenizer=None):
    rows = _read(Path(source) / "train.csv")
    digest = hashlib.sha256(rows.numpy().tobytes()).hexdigest()
    facts = {
        "source": Path(source).name,
        "rows": len(rows),
        "held_out": len(rows) // 2,
        "sha256": digest,
    }
    return Series(rows[::2], rows[1::2], digest, facts)


def batch(data, recipe, step, rows, total):
    """Return a function of (seed, step, row) alone: any number of processes sees the same."""
    generator = torch.Generator().manual_seed(recipe.train.seed * 1_000_003 + step)
    chosen = torch.randint(len(data.train), (total,), generator=generator)[rows.start : rows.stop]
    return data.train[chosen, 1:], data.train[chosen, 0].long()


def loss(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, target)


@torch.no_grad()
def _accuracy(model: nn.Module, rows: Tensor) -> float:
    return float((model(rows[:, 1:]).argmax(1) == rows[:, 0]).float().mean())


def validate(model, data, recipe):
    return {"accuracy": _accuracy(model, data.held_out)}


def evaluate(model, recipe, data, tokenizer=None):
    rows = _read(Path(data) / "test.csv")
    return {
        "rows": len(rows),
        "accuracy": _accuracy(model, rows),
        "protocol": "every row of test.csv",
    }


@torch.no_grad()
def run(model, recipe, source, out=None):
    numbers = torch.tensor([[float(x) for x in Path(source).read_text().split(",")]])
    answer = Answer(recipe.preprocessing["labels"][int(model(numbers).argmax())])
    if out is not None:
        answer.save(out)
    return answer


def trial(folder, recipe=None):
    """Write tiny data, which the shared battery trains, judges and runs on."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = short(recipe or registry.find("acme-trend"))
    slopes = torch.linspace(-1, 1, 64)[:, None] * torch.linspace(-1, 1, 16)
    rows = ["".join([str(int(s[-1] > s[0])), *(f",{x:.3f}" for x in s.tolist())]) for s in slopes]
    for name in ("train.csv", "test.csv"):
        (folder / name).write_text("\n".join(rows))
    (folder / "one.csv").write_text(rows[-1].partition(",")[2])
    return Trial(recipe=recipe, model=build(recipe), data=folder, source=folder / "one.csv")
