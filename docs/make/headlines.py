"""The table "what you can do here": one number for each thing, from what is shipped or stored."""

import json
import statistics
from typing import Any

import zoo
from benchmarks.common import RESULTS
from docs.make import networks
from zoo.adapters import registry


def stored(name: str) -> Any:
    """Return a benchmark's results."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(prefix: str) -> str:
    """Return the table.

    Args:
        prefix: of links from the page that shows it to the guide: "docs/" or "".

    """
    rows = (
        restyling(),
        enlarging(),
        hearing(),
        noticing(),
        detecting(),
        classifying(),
        switching(),
        compressing(),
        shrinking(),
        deploying(),
        estimating(),
        enduring(),
        hub(),
    )
    lines = ["| | measured | how |", "|---|---|---|"]
    for what, measured, (title, page) in rows:
        lines.append(f"| {what} | {measured} | [{title}]({prefix}{page}) |")
    return "\n".join(lines)


Row = tuple[str, str, tuple[str, str]]


def restyling() -> Row:
    """The size of a look."""
    found = [registry.find(name) for name in registry.names("looks-*")]
    sizes = [recipe.weights["bytes"] / 1e3 for recipe in found if "file" in recipe.weights]
    weights = networks.cost("looks").parameters["weights"]
    return (
        "**Restyle photographs** while a slider moves: looks as adapters of one small network",
        f"{len(sizes)} looks of {statistics.median(sizes):.0f} KB on a base of {weights:,} weights",
        ("looks", "guides/looks.md"),
    )


def enlarging() -> Row:
    """SESR on Set5."""
    set5 = zoo.checkpoint("sesr-m5-x2").metrics["evaluations"]["Set5"]
    weights = networks.cost("sesr-m5-x2").parameters["weights"]
    return (
        "**Enlarge pictures** with networks of 9 to 115 thousand weights (SESR)",
        f"{set5['psnr_y_db']:.2f} dB on Set5 at x2 with {weights:,} weights; "
        f"bicubic {set5['bicubic_psnr_y_db']:.2f} dB",
        ("enlarge", "guides/enlarge.md"),
    )


def hearing() -> Row:
    """MicroNet-KWS-S on spoken digits."""
    found = zoo.checkpoint("micronet-kws-s").metrics["evaluations"]["FSDD test"]
    weights = networks.cost("micronet-kws-s").parameters["weights"]
    share = f"{100 * found['accuracy']:.1f} % of {found['clips']} spoken digits"
    return (
        "**Hear words** with networks for microcontrollers (MicroNets)",
        f"{share} with {weights:,} weights",
        ("hear words", "guides/listen.md"),
    )


def noticing() -> Row:
    """An autoencoder on ToyCar, and with a classifier beside it."""
    found = stored("anomaly_toycar")

    def mean(results: list[dict[str, float]]) -> str:
        return f"{statistics.mean(result['auc'] for result in results):.2f}"

    alone, mixed = mean(found["mlperf-tiny-ad"]["clip"]), mean(found["mix"]["each"])
    return (
        "**Notice a machine that sounds wrong**, from its normal sounds",
        f"four toy cars, mean AUC: {alone} by an autoencoder, {mixed} with a MicroNet beside it; "
        f"{mean([found['published']['litert']['window']])} by MLPerf Tiny's file, trained on "
        "other clips",
        ("notice", "guides/notice.md"),
    )


def detecting() -> Row:
    """The detector of blood cells, float and int8."""
    found = [
        zoo.checkpoint(f"ran-i-detector.{tag}").metrics["evaluations"]["BCCD test"]
        for tag in ("bccd", "bccd-int8")
    ]
    weights = networks.cost("ran-i-detector").parameters["weights"]
    return (
        "**Find objects and draw their boxes**, judged as COCO does",
        f"blood cells: mAP@.5 {found[0]['map_50']:.2f}, {found[1]['map_50']:.2f} in int8, with "
        f"{weights:,} weights",
        ("detect", "guides/detect.md"),
    )


def classifying() -> Row:
    """ResNet-8 on CIFAR-10, float and int8."""
    found = []
    for tag in ("cifar10", "cifar10-int8"):
        metrics = zoo.checkpoint(f"mlperf-tiny-ic.{tag}").metrics
        evaluation = metrics["evaluations"]["CIFAR-10 test, as JPEG"]
        found.append(f"{100 * evaluation['accuracy']:.1f} %")
    return (
        "**Train, fine-tune, train for int8** under Accelerate, on your data",
        f"ResNet-8 of MLPerf Tiny: {found[0]} of CIFAR-10, stored as JPEG; {found[1]} in int8",
        ("train", "guides/train.md"),
    )


def switching() -> Row:
    """A switch of 154 million weights, one per cent of them changed."""
    found = stored("adapters_switch")["results"]["154M fp32"]
    ours = found["median_ms"]["ours"]
    ratio = 1 / found["ours_over"]["peft LoRA r32"]["median"]
    return (
        "**Switch adapters** in place, and restore the base to the bit (SHiRA)",
        f"{ours:.1f} ms for 1 % of {found['parameters'] / 1e6:.0f} million weights: "
        f"{ratio:.0f}x faster than merging peft's LoRA",
        ("adapters", "guides/adapters.md"),
    )


def compressing() -> Row:
    """SmolLM2 at three bits."""
    rows = stored("gptvq_perplexity")["rows"]

    def mean(name: str) -> float:
        return statistics.mean(row["perplexity"] for row in rows if row["row"] == name)

    return (
        "**Compress language models** to 2, 3 or 4 bits (GPTVQ, GPTQ, RTN)",
        f"SmolLM2-135M at 3.1 bits: perplexity {mean('gptvq 2D 3.125'):.1f} on WikiText-2, "
        f"{mean('none'):.1f} in float32, {mean('gptq int3 g128'):.1f} by GPTQ at 3.2 bits",
        ("language models", "guides/language-models.md"),
    )


def shrinking() -> Row:
    """A vision transformer at 40 % of the weights of its blocks."""
    found = stored("lowrank_vit")["keep"]["0.4"].values()
    lost = [
        seed["float"]["accuracy"] - seed["+ 60 steps, kl"]["accuracy"] for seed in map(dict, found)
    ]
    return (
        "**Make any network smaller**: low rank, pruning, ternary and encoded weights, beside each "
        "other",
        f"a vision transformer at 40 % of its weights: {statistics.mean(lost):.1f} points of "
        "accuracy lost, repaired without labels in seconds",
        ("low rank", "guides/low-rank.md"),
    )


def deploying() -> Row:
    """The export of SESR-M5 beside that of litert-torch."""
    found = stored("export")["export"]["sesr-m5-x2 90x160"]
    return (
        "**Put a network on a microcontroller**: TFLite, ONNX, C, to the bit",
        f"SESR-M5 on an Ethos-U55-128: {found['zoo']['u55_128_cycles'] / 1e6:.1f} M cycles, "
        f"{found['zoo']['cpu_ops']} operators on the CPU; by litert-torch "
        f"{found['litert']['u55_128_cycles'] / 1e6:.1f} M and {found['litert']['cpu_ops']}",
        ("microcontroller", "guides/microcontroller.md"),
    )


def estimating() -> Row:
    """What SESR-M5 costs on one device."""
    cost = zoo.estimate("sesr-m5-x2", "ethos-u55-256", method="roofline")
    known = {name: how.partition(" (")[0] for name, how in cost.obtained.items()}
    return (
        "**Know what a model costs** on a device, and how that is known",
        f"SESR-M5 x2 to 720p: {cost.macs / 1e9:.2f} G MACs ({known['macs']}), "
        f"{cost.latency_ms:.0f} ms on an Ethos-U55-256 ({known['latency_ms']})",
        ("costs", "guides/cost.md"),
    )


def enduring() -> Row:
    """Answers of MLPerf Tiny's spotter that one flipped bit turns."""
    networks = {found["ref"]: found for found in stored("reliability_sampling")["networks"]}
    rate = networks["mlperf-tiny-kws.fsdd-int8"]["flows"]["block"]["flip_rate"]
    return (
        "**Know what a flipped bit, noise or an attack does** to a network, with an interval",
        f"one flip in an Ethos-U55-128 turns {rate['value']:.2f} % of a spotter's answers "
        f"({rate['low']:.2f} to {rate['high']:.2f})",
        ("reliability", "guides/reliability.md"),
    )


def hub() -> Row:
    """Bringing half a gigabyte from the embedded hub."""
    found = stored("hub")
    size = found["megabytes"]
    pull, curl = (size / statistics.median(found["seconds"][name]) for name in ("pull", "curl"))
    return (
        "**Publish and pull**, on huggingface.co or a hub of your own in one process",
        f"`zoo pull` of {size} MB, verified: {pull:.0f} MB/s; curl and sha256sum {curl:.0f} MB/s",
        ("hub", "guides/hub.md"),
    )
