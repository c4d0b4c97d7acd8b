"""The card of a data set of costs: what is in it, how it was made, and how `datasets` reads it."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from zoo.cost.networks.families import FAMILIES, MOST_MACS, MOST_WEIGHTS
from zoo.cost.networks.rows import Row
from zoo.cost.networks.shards import CostRecipe, rows
from zoo.files import write_bytes
from zoo.version import __version__

_FEATURES = """\
  - name: id
    dtype: int64
  - name: family
    dtype: string
  - name: space
    dtype: string
  - name: macs
    dtype: int64
  - name: weight_bytes
    dtype: int64
  - name: inputs
    list: int64
  - name: outputs
    list: int64
  - name: tensors
    list:
    - name: shape
      list: int64
    - name: dtype
      dtype: string
    - name: kind
      dtype: string
  - name: operators
    list:
    - name: kind
      dtype: string
    - name: inputs
      list: int64
    - name: outputs
      list: int64
    - name: attributes
      dtype: string
    - name: macs
      dtype: int64
    - name: weights
      dtype: int64
    - name: zeros
      dtype: int64
    - name: levels
      dtype: int64
    - name: entropy_bits
      dtype: float64
    - name: coded_bytes
      dtype: int64
    - name: coded_bytes_two_cores
      dtype: int64
  - name: labels
    list:
    - name: target
      dtype: string
    - name: latency_ms
      dtype: float64
    - name: cycles
      dtype: int64
    - name: sram_bytes
      dtype: int64
    - name: dram_bytes
      dtype: int64
    - name: encoded_bytes
      dtype: int64
    - name: host_operators
      dtype: int64
    - name: operator_cycles
      list: int64
    - name: operator_sram
      list: int64
  - name: refused
    list: string
"""


def write_card(folder: Path, given: CostRecipe) -> str:
    """Write the README of a set from its rows; return its text."""
    text = _card(given, rows(folder))
    write_bytes(folder / "README.md", text.encode())
    return text


def _card(given: CostRecipe, found: Iterable[Row]) -> str:
    families: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    refused = 0
    for row in found:
        families[row["family"]] += 1
        labels.update(one["target"] for one in row["labels"])
        refused += len(row["refused"])
    count = families.total()
    spaces = "\n".join(
        f"| {space} | {name} | {draw.__doc__.split('(')[-1].rstrip(').') if draw.__doc__ else ''} "
        f"| {families[name]:,} |"
        for name, (space, draw) in FAMILIES.items()
    )
    targets = "\n".join(f"| {name} | {labels[name]:,} |" for name in given.targets)
    size = next(
        text
        for most, text in (
            (1e3, "n<1K"),
            (1e4, "1K<n<10K"),
            (1e5, "10K<n<100K"),
            (1e9, "100K<n<1M"),
        )
        if count < most
    )
    front = f"""\
---
license: apache-2.0
pretty_name: Costs of small int8 networks on Ethos-U
size_categories:
- {size}
tags:
- edge-zoo
- latency
- neural-architecture-search
- tinyml
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.jsonl.gz
dataset_info:
  features:
{_FEATURES}---

"""
    return front + _body(given, (count, refused), targets, spaces)


def _body(given: CostRecipe, counts: tuple[int, int], targets: str, spaces: str) -> str:
    count, refused = counts
    return f"""\
# Costs of small int8 networks on Ethos-U

{count:,} random int8 networks, and what Arm's compiler Vela {given.vela} says each of them costs.
After the idea of EdgeDLPerf ([PerfSAGE](https://arxiv.org/abs/2301.10999)); all are made here.

```python
from datasets import load_dataset

networks = load_dataset("ORG/NAME", split="train")
```

## What a row has

One network: its tensors and operators in the order in which they can run (`inputs` and `outputs`
are places in `tensors`; `attributes` is JSON), and for each layer how its weights are spread: their
number, zeros, distinct values, entropy in bits, and the bytes that the accelerator's weight code
needs for them (`coded_bytes`, and as two streams `coded_bytes_two_cores`; both estimated). The
weights themselves are not kept. `labels` has for each target the latency at the system's clock,
cycles in all and of each operator, the peak of SRAM and DRAM, the SRAM that the schedule holds at
each operator, and the encoded bytes of all weights. `refused` says why the compiler did not take a
network.

| target | networks with costs |
|---|---:|
{targets}

{refused:,} costs were refused by the compiler.

## How it was made

`zoo cost dataset` with edge-zoo {__version__}, seed {given.seed}. A network's number fixes its
family and all that is drawn: widths, depths, kernels, strides, sizes of pictures, and for its
weights the share of zeros, the number of distinct values and their distribution. Networks have at
most {MOST_WEIGHTS:,} weights and {MOST_MACS:,} multiply-accumulates.

| space | family | as | networks |
|---|---|---|---:|
{spaces}

## What it is not

The costs are a compiler's estimates for Arm's reference systems, not measurements of a chip. There
is no energy: the compiler gives none.
"""
