"""Rewrites the tables of the README and the guide from the shipped files: none is typed.

A table stands in its page between the markers `<!-- NAME -->` and `<!-- /NAME -->`.

Run: make tables
"""

import math
from collections.abc import Callable
from pathlib import Path

import zoo
from benchmarks import export, gptvq_tables, hub
from benchmarks.sesr_quality import held_out_bsds
from docs.make import (
    anomalies,
    claims,
    detection,
    fewer_bits,
    headlines,
    low_bits,
    networks,
    published,
    ran,
    resilience,
    scaling,
    ternary,
    tinyml,
)
from zoo import registry
from zoo.adapters import registry as adapter_registry
from zoo.adapters.storage import read_header
from zoo.cards.parts import TARGETS
from zoo.cost.result import readable

ROOT = Path(__file__).resolve().parents[2]


def models() -> str:
    """Return the table of super-resolution networks: counts, and what the shipped weights reach."""
    lines = [
        "| model | weights | MACs to 720p | Set5 PSNR / SSIM | bicubic | held out | |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for name in sorted(registry.names("sesr-*"), key=_scale_then_size):
        cost = networks.cost(name)
        recipe = registry.find(name)
        counts = f"| `{name}` | {cost.parameters['weights']:,} | {cost.macs / 1e9:.3f} G |"
        if recipe.default_tag not in registry.shipped_tags(name):
            lines.append(f"{counts} | | | not trained yet |")
            continue
        metrics = zoo.checkpoint(name).metrics
        set5, held = metrics["evaluations"]["Set5"], held_out_bsds(metrics)
        lines.append(
            f"{counts} {set5['psnr_y_db']:.2f} dB / {set5['ssim_y']:.4f} | "
            f"{set5['bicubic_psnr_y_db']:.2f} dB | {held:.2f} dB | shipped |"
        )
    return "\n".join(lines)


def _scale_then_size(name: str) -> tuple[int, int, int]:
    args = registry.find(name).args
    return args["scale"], args["channels"], args["blocks"]


def costs() -> str:
    """Return what SESR-M5 x2 costs on three devices, in tiles where it runs so."""
    lines = [
        "| target | time | activations, peak | how it runs | how known |",
        "|---|---:|---:|---|---|",
    ]
    for target in TARGETS:
        cost = zoo.estimate("sesr-m5-x2", target)
        peak = readable(cost.peak_activation_bytes)
        time, how = networks.duration(cost.latency_ms), networks.how_it_runs(cost)
        known = cost.obtained["latency_ms"]
        lines.append(f"| `{target}` ({cost.dtype}) | {time} | {peak} | {how} | {known} |")
    return "\n".join(lines)


def adapters() -> str:
    """Return the table of shipped adapters: what each changes and what it buys."""
    lines = [
        "| adapter | base | changes | file | measured | base | adapter | data, licence |",
        "|---|---|---:|---:|---|---:|---:|---|",
    ]
    for name in adapter_registry.names():
        recipe = adapter_registry.find(name)
        if "file" not in recipe.weights:
            continue
        measured, pair = next(
            (key, value) for key, value in recipe.facts.items() if isinstance(value, dict)
        )
        header = read_header(str(adapter_registry.file_path(recipe)))
        share = header.nnz / sum(math.prod(fields["shape"]) for fields in header.tensors.values())
        lines.append(
            f"| `{name}` | {recipe.base.partition('.')[0]} | {share:.1%} | "
            f"{recipe.weights['bytes'] / 1e3:,.0f} KB | {_words(measured)} | "
            f"{pair['base']} | {pair['adapter']} | {recipe.data['source']}, "
            f"{recipe.weights['license']} |"
        )
    return "\n".join(lines)


def looks() -> str:
    """Return what each look reaches against its filter."""
    lines = ["| look | file | base | with the look |", "|---|---:|---:|---:|"]
    for name in adapter_registry.names("looks-*"):
        recipe = adapter_registry.find(name)
        if "file" in recipe.weights:
            pair = recipe.facts["held_out_psnr_db"]
            size = f"{recipe.weights['bytes'] / 1e3:,.0f} KB"
            psnr = f"{pair['base']:.1f} dB | {pair['adapter']:.1f} dB"
            lines.append(f"| `{name}` | {size} | {psnr} |")
    return "\n".join(lines)


def _words(fact: str) -> str:
    """Return the name of a fact for people: held_out_psnr_db -> held out, PSNR in dB."""
    return fact.replace("_psnr_db", ", PSNR in dB").replace("_", " ")


def with_table(text: str, name: str, table: str) -> str:
    """Return a page with the table between its markers."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise SystemExit(f"the page has no pair of markers {start} {end}")
    before, rest = text.split(start)
    return f"{before}{start}\n{table}\n{end}{rest.split(end)[1]}"


def fresh(page: str) -> str:
    """Return a page as it has to be: with the tables that the shipped files give."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, make in PAGES[page].items():
        text = with_table(text, name, make())
    return text


def main() -> None:
    """Rewrite the tables in place."""
    for page in PAGES:
        (ROOT / page).write_text(fresh(page), encoding="utf-8")


PAGES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"headlines": lambda: headlines.table("docs/")},
    "docs/index.md": {"headlines": lambda: headlines.table("")},
    "docs/guides/detect.md": {"bccd": detection.table},
    "docs/guides/listen.md": {"hearing": claims.hearing, "published": published.table},
    "docs/guides/looks.md": {"looks": looks},
    "docs/guides/low-bits.md": {
        "formats": low_bits.formats,
        "layers": low_bits.layers,
        "training": low_bits.training,
        "lossless": low_bits.lossless,
        "awq": fewer_bits.awq,
        "cache": fewer_bits.cache,
        "flex": fewer_bits.flex,
        "bits": fewer_bits.bits,
    },
    "docs/guides/attacks.md": {
        "attacked": resilience.attacked,
        "differences": resilience.differences,
        "pressed": resilience.pressed,
        "frames": resilience.frames,
    },
    "docs/guides/noise.md": {"noise": resilience.noise},
    "docs/guides/notice.md": {"toycar": anomalies.table},
    "docs/guides/ran-implicit.md": {"speed": scaling.speed, "study": scaling.study},
    "docs/guides/ran.md": {"ratios": ran.ratios, "cycles": ran.cycles, "small": ran.small},
    "docs/guides/ternary.md": {
        "words": ternary.words,
        "banks": ternary.banks,
        "kernel": ternary.kernel,
    },
    "docs/guides/tinyml.md": {
        "files": tinyml.files,
        "linear": tinyml.linear,
        "slopes": tinyml.slopes,
        "encoded": tinyml.encoded,
        "streams": tinyml.streams,
        "levels": tinyml.levels,
    },
    "docs/tables/models.md": {"recipes": networks.recipes, "models": models},
    "docs/tables/adapters.md": {"adapters": adapters, "adapter-speed": claims.adapters},
    "docs/tables/quantized.md": {"llm": gptvq_tables.perplexities},
    "docs/tables/costs.md": {"costs": costs, "all-costs": networks.costs_by_target},
    "docs/tables/operators.md": {
        "operators": networks.operators,
        "exported": networks.exported,
        "refused": networks.refused,
    },
    "docs/benchmarks.md": {
        "machines": claims.machines,
        "enlarging": claims.enlarging,
        "adapter-speed": claims.adapters,
        "hearing": claims.hearing,
        "hub-clients": claims.hub_clients,
        "costing": claims.costing,
        "llm-speed": gptvq_tables.speeds,
        "hub": hub.table,
        "int8": export.markdown,
    },
}

if __name__ == "__main__":
    main()
