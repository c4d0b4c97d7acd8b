"""The card of a quantized language model: `cards/quantized.md` filled with its facts."""

from typing import TYPE_CHECKING, Any

from zoo.cards.compression import command, settings, shares
from zoo.cards.parts import TARGETS, fill, license_matter
from zoo.quantization.plan import QuantizationPlan

if TYPE_CHECKING:
    from zoo.registry.checkpoint import Checkpoint


def render(checkpoint: "Checkpoint", repo: str | None) -> str:
    """Return the card: front matter for the Hub, then Markdown that starts with the import."""
    recipe = checkpoint.recipe
    compress, writes = recipe.compress, recipe.task == "text-generation"
    report = checkpoint.metrics.get("compression", {})
    lossless = report.get("lossless", False)
    thin = "base_numbers" in report
    plan = None if lossless or thin else QuantizationPlan.read(compress.method, compress.options)
    layers = report.get("layers", {})
    return fill(
        "quantized.md",
        front_matter(checkpoint),
        recipe=recipe,
        compress=compress,
        plan=plan,
        lossless=lossless,
        thin=thin,
        ref=repo or f"./{recipe.name}",
        settings=settings(compress),
        report=report,
        sizes=_sizes(checkpoint),
        quality=[
            (name, f"{result['perplexity']:.2f}", result["protocol"])
            for name, result in checkpoint.metrics.get("evaluations", {}).items()
            if "perplexity" in result
        ],
        costs=_costs(report["tensor_bytes"]) if report and writes else [],
        writes=writes,
        opener="AutoModelForCausalLM" if writes else recipe.model.split(":")[1],
        decode=checkpoint.metrics.get("decode"),
        calibration=report.get("calibration"),
        worst=sorted(
            ((name, facts["relative_error"]) for name, facts in layers.items()),
            key=lambda item: -item[1],
        )[:5],
        notes=[(name, note) for name, facts in layers.items() for note in facts.get("notes", ())],
        license=checkpoint.license,
        command=command(checkpoint),
        files=sorted(checkpoint.config["files"].items()),
    )


def front_matter(checkpoint: "Checkpoint") -> dict[str, Any]:
    """Return the card's metadata in the Hub's terms."""
    recipe = checkpoint.recipe
    base = recipe.compress.base.split("@")[0]
    return {
        **license_matter(checkpoint.license),
        "library_name": "transformers",
        "pipeline_tag": recipe.task,
        "base_model": base,
        "base_model_relation": "quantized",
        "tags": ["edge-zoo", recipe.compress.method, "edge", f"arxiv:{recipe.paper}"],
    }


def _sizes(checkpoint: "Checkpoint") -> list[tuple[str, str, str]]:
    report = checkpoint.metrics.get("compression", {})
    if not report:
        return []
    files = checkpoint.config["files"]
    if "base_numbers" in report:
        return _thin(report)
    lossless = report.get("lossless", False)
    rows = "8 bits" if checkpoint.recipe.compress.options.get("embeddings") else "floats"
    weights = sum(f["bytes"] for name, f in files.items() if name.endswith(".safetensors"))
    return [
        ("weights packed", _packed(report), "exact"),
        ("bits per packed weight, everything counted", f"{report['bits_per_weight']:.4f}", "exact"),
        ("bytes of the packed weights", f"{report['packed_bytes']:,}", "exact"),
        (
            "bytes of all tensors" + ("" if lossless else f", embeddings in {rows}"),
            f"{report['tensor_bytes']:,}",
            "exact",
        ),
        ("bytes of the weight files", f"{weights:,}", "exact"),
        (
            "mean relative error of a layer",
            f"{report['relative_error']:.5f}",
            "exact" if lossless else "measured",
        ),
        *_distance(report),
    ]


def _thin(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the sizes of a model whose matrices are in low rank."""
    errors = [layer["relative_error"] for layer in report["layers"].values()]
    ranks = [layer["rank"] for layer in report["layers"].values()]
    return [
        *shares(report),
        ("layers in low rank", f"{len(ranks)}, of rank {min(ranks)} to {max(ranks)}", "exact"),
        ("bytes of all tensors", f"{report['tensor_bytes']:,}", "exact"),
        ("mean relative error of a layer", f"{sum(errors) / len(errors):.5f}", "measured"),
    ]


def _packed(report: dict[str, Any]) -> str:
    share = f" ({report['share']:.1%} of the model's)" if "share" in report else ""
    return f"{report['weights']:,}{share}"


def _distance(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    if "check" not in report:  # made before packing ended with it
        return []
    check = report["check"]
    label = f"distance of the logits from the base's, relative, {check['tokens']} tokens"
    return [(label, f"{check['distance']:.4f}", "measured")]


def _costs(tensor_bytes: int) -> list[tuple[str, str, str, str]]:
    """Return (target, whether the weights fit, ms per token, how known) of the cards' targets.

    One token at a time reads every weight once; where they stream from flash or DRAM, that alone
    takes at least their bytes over its bandwidth.
    """
    from zoo import cost

    rows = []
    for name in TARGETS:
        numbers = cost.target(name).numbers
        flash, fits = numbers.get("flash_bytes"), "memory of any size"
        if flash is not None:
            fits = "yes" if tensor_bytes <= flash.value else "no"
            fits += f", {flash.value:,.0f} bytes of flash"
        source = next((k for k in ("dram", "flash") if f"{k}_bytes_per_s" in numbers), None)
        if source is None:
            rows.append((name, fits, "-", "no bandwidth given"))
            continue
        ms = 1000 * tensor_bytes / numbers[f"{source}_bytes_per_s"].value
        rows.append((name, fits, f"{ms:,.3g}", f"estimated (bandwidth of its {source})"))
    return rows
