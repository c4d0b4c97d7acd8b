"""Benchmarks still build what their claims name, although defaults that they use may change."""

import importlib
import importlib.util
import json
import pkgutil
import re
import shutil
import statistics
import subprocess
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import benchmarks
from benchmarks.common import RESULTS
from zoo import registry
from zoo.registry.checkpoint import build

ROOT = Path(benchmarks.__path__[0]).parent
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "cards").rglob("*.md"),
    *(ROOT / "adapters").glob("*.toml"),
]


def stored(name):
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def macs(model, *inputs, **options):
    """Return the multiply-accumulates of a pass that computes nothing."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model.to("meta")(*(torch.empty(shape) for shape in inputs), **options)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("module", [m.name for m in pkgutil.iter_modules(benchmarks.__path__)])
def test_each_can_be_imported(module):
    importlib.import_module(f"benchmarks.{module}")


def test_every_command_of_the_guide_is_there_with_its_flags():
    missing = []
    for page in PAGES:
        for name, rest in re.findall(
            r"-m (benchmarks\.[\w.]*\w)([^`\n]*)", page.read_text(encoding="utf-8")
        ):
            if name == "benchmarks.NAME":
                continue
            spec = importlib.util.find_spec(name)
            if spec is None:
                missing.append(f"{page.name}: {name}")
                continue
            text = Path(spec.origin).read_text(encoding="utf-8")
            flags = re.findall(r"--([a-z-]+)", rest.split("#")[0])
            missing += [
                f"{page.name}: {name} --{flag}"
                for flag in flags
                if not re.search(rf'"(--)?{flag}"', text)
            ]
    assert not missing


def test_every_stored_result_is_one_that_a_benchmark_writes():
    sources = "".join(p.read_text("utf-8") for p in (ROOT / "benchmarks").glob("*.py"))
    for path in RESULTS.glob("*.json"):
        parts = [path.stem[: found.start()] for found in re.finditer("_", path.stem)]
        assert re.search(rf'["/]{path.stem}(\.json|")', sources) or any(
            f'"{part}_{{' in sources for part in parts
        ), path.name


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_bench_runs_those_that_need_nothing():
    done = subprocess.run(
        ["make", "--dry-run", "bench"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (names,) = re.findall(r"for name in ([^;]*);", done.stdout)
    (others,) = re.findall(r"not run, for they need data: ([^\"]*)\"", done.stdout)
    for name in (*names.split(), *others.split()):
        text = (ROOT / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
        assert 'if __name__ == "__main__":' in text, name
        assert ("required=True" in text) == (name in others.split()), name
    assert {"benchmarks.sesr_training", "benchmarks.listing"} <= set(names.split())
    assert "benchmarks.sesr_quality" in others.split()


def test_training_in_expanded_space_goes_through_the_wide_factors():
    from benchmarks import sesr_training as bench

    y = (32, 1, 64, 64)  # the claim's batch
    model, _ = bench.trainer(True, bench.EXPANSION)
    work = {expanded: macs(model, y, expanded=expanded) for expanded in (True, False)}
    # Time follows the work; what it does not follow is overhead, which both forms have.
    assert work[True] / work[False] > stored("sesr_training")["speedup"]["median"] > 15
    assert sum(p.numel() for p in model.parameters()) > 20 * sum(
        p.numel() for p in build(registry.find("sesr-m5-x2")).parameters()
    )


def test_enlarging_is_timed_on_m5_in_float():
    from benchmarks import sesr_inference as bench

    network = bench.network()
    assert (len(network.body), network.first.out_channels, network.scale) == (5, 16, 2)
    assert {p.dtype for p in network.parameters()} == {torch.float32}


ABLATED = {
    "AdamW at 5e-4 on factors of 256": ("adamw", 5e-4, 256),
    "AdamW at 1e-3 on the kernels": ("adamw", 1e-3, 0),
    "factors of 256: twice the time": ("soap", 3e-3, 256),
    "rate 1e-2": ("soap", 1e-2, 0),
    "rate 2.5e-3": ("soap", 2.5e-3, 0),
}


def test_each_row_of_the_ablation_differs_from_the_recipe_as_its_name_says():
    from benchmarks import sesr_ablation as bench

    made = {
        row: registry.find(bench.NAME).override(bench.settings(changes)).train
        for row, changes in bench.ROWS.items()
    }
    assert len({repr(train) for train in made.values()}) == len(made)
    for row, expected in ABLATED.items():
        train = made[row]
        assert (train.optimizer, train.lr, train.options["expansion"]) == expected, row
    base = made["the recipe"]
    assert (base.optimizer, base.options["expansion"], base.precision) == ("soap", 0, "bf16")
    assert base.options["shrunk_copies"] > 0 < base.ema_decay
    for row, train in made.items():
        pixels = train.steps * train.batch_size * train.options["patch_size"] ** 2
        assert pixels == pytest.approx(bench.MEGAPIXELS * 1e6, rel=1e-3), row
    # What was measured are these rows: who changes one measures again.
    for row, known in zip(stored("sesr_ablation")["rows"], bench.ROWS.items(), strict=True):
        assert (row["row"], row["changes"]) == known
        assert row["steps"] == made[row["row"]].steps
    going_on = stored("sesr_ablation")["going_on"]
    assert [row["row"] for row in going_on][1:] == [*bench.GOING_ON]
    guide = (ROOT / "docs" / "guides" / "train.md").read_text(encoding="utf-8")
    for row in going_on:
        assert f"| {row['bsds500_db']:.2f} dB | {row['wallpapers_db']:.2f} dB |" in guide


def test_adapters_are_switched_on_a_model_of_the_size_and_share_that_is_named():
    from benchmarks import adapters_common as common
    from benchmarks import adapters_switch as bench

    for size, shape in bench.SIZES.items():
        with torch.device("meta"):
            model = common.llama(*shape, torch.bfloat16)
        count = sum(p.numel() for p in common.targets(model).values())
        assert count / 1e6 == pytest.approx(int(size.removesuffix("M")), rel=0.05)
    assert stored("adapters_switch")["results"]["154M fp32"]["parameters"] == count >= 100e6
    small = common.llama(64, 1, 128, torch.float32)
    assert common.sparse(small, 0.01, 0).density == pytest.approx(0.01, rel=0.01)
    lora = common.with_peft(small, "lora", 32)
    found = [p.shape[0] for n, p in lora.named_parameters() if "lora_A.a" in n]
    assert found == [32] * len(common.LINEARS)


def test_adapters_are_compared_at_equal_budgets():
    from benchmarks import adapters_quality as bench

    hidden, narrow, wide, layers = 576, 192, 1536, 30  # SmolLM2-135M
    shapes = [(hidden, hidden), *[(narrow, hidden)] * 2, (wide, hidden), (hidden, wide)]
    rank = bench.settings("sst2", "lora", 0)["rank"]
    factors = layers * rank * sum(a + b for a, b in shapes)
    for method in (*bench.MASKS, "block"):
        density = bench.settings("sst2", method, 0)["mask.density"]
        masked = layers * density * sum(a * b for a, b in shapes)
        assert masked == pytest.approx(factors, rel=0.01)
    assert f"{factors / 1e6:.2f}" == "0.83"  # as the guide has it


def test_training_an_adapter_changes_one_weight_in_a_hundred():
    from benchmarks import adapters_common as common
    from benchmarks import adapters_training as bench

    with torch.device("meta"):
        model = bench.model_of()
    weights = common.targets(model).values()
    ours = bench.DENSITY * sum(p.numel() for p in weights)
    theirs = bench.shira_rank(model) * sum(sum(p.shape) for p in weights)
    assert theirs == pytest.approx(ours, rel=0.1)
    memory = stored("adapters_training")["memory"]
    assert memory["shira"]["trained"] == pytest.approx(ours, rel=0.01)
    assert memory["lora"]["trained"] == bench.RANK * sum(sum(p.shape) for p in weights)


BITS = re.compile(r"(?P<dim>\d)D (?P<bits>\d)b|int(?P<int>\d)")


@pytest.mark.parametrize(
    ("module", "table"), [("gptvq_layers", "CONTESTANTS"), ("gptvq_perplexity", "ROWS")]
)
def test_quantized_rows_have_the_bits_and_dimensions_of_their_names(module, table):
    from zoo.quantization.core import stored_bits

    rows = getattr(importlib.import_module(f"benchmarks.{module}"), table)
    named = 0
    for name, options in rows.items():
        if options is None:
            continue
        shape = (1536, 576)  # up_proj of the claim's model
        bits = stored_bits(shape, options) / (shape[0] * shape[1])
        if found := BITS.search(name):
            named += 1
            assert options.bits == int(found["bits"] or found["int"]), name
            assert options.dim == int(found["dim"] or 1), name
            # Codebooks and scales come on top: an eighth to a third of a bit.
            assert options.bits < bits < options.bits + 1 / 3, name
        elif target := re.search(r"\d\.\d+", name):
            named += 1
            if options.target_bpv is not None:
                assert options.target_bpv == float(target[0]), name
                assert bits <= options.target_bpv, name
        for method in ("gptq", "gptvq", "rtn"):
            if re.match(rf"{method}\b", name, re.IGNORECASE):
                assert options.method == method, name
    assert named >= len(rows) - 1


def test_decoding_is_timed_at_two_dimensions_and_three_bits():
    from benchmarks import gptvq_decode, gptvq_prefill

    assert (gptvq_decode.OPTIONS.dim, gptvq_decode.OPTIONS.bits) == (2, 3)
    assert gptvq_prefill.packed is gptvq_decode.packed


def test_exports_are_of_mlperf_tinys_network_and_of_sesr_m5():
    from benchmarks import export as bench

    made = bench.networks()
    module, x = made["DS-CNN 49x10"]
    theirs = build(registry.find("mlperf-tiny-kws"))
    shape = (1, *x.shape[1:])
    assert macs(module, shape) == pytest.approx(macs(theirs, shape), rel=0.01)
    for name, activation in (("sesr-m5-x2", "prelu"), ("sesr-m5-relu-x2", "relu")):
        network, x = made[f"{name} 90x160"]
        assert (len(network.body), network.activation) == (5, activation)
        assert x.shape[1:] == (1, 90, 160)


def test_expressivity_is_measured_on_networks_of_equal_work():
    from benchmarks import ran_expressivity as bench

    found = [one.macs for one in bench.topologies().values()]
    assert len(found) == 30
    assert max(abs(count / 1e6 - 1) for count in found) < 0.02  # as the guide has it


def test_detectors_that_are_compared_have_the_same_work():
    from benchmarks import detection as bench

    recipes = [registry.find(name) for name in bench.NAMES]
    counts = [macs(build(recipe), recipe.input_shape) for recipe in recipes]
    assert max(counts) / min(counts) < 1.05


def test_ones_own_words_are_learned_as_the_guide_types_it():
    from benchmarks import kws_own_words as bench

    typed = dict(re.findall(r"--set train\.([\w.]+)=(\S+)", bench.__doc__))
    assert float(typed.pop("options.retakes")) == 8
    assert {key: float(value) for key, value in typed.items()} == {
        key: value for key, value in bench.SETTINGS.items() if key != "save_every"
    }
    assert stored("kws_own_words")["base"] == bench.BASE
    assert statistics.mean(r["own"] for r in stored("kws_own_words")["people"]) == pytest.approx(
        stored("kws_own_words")["means"]["own"]
    )
