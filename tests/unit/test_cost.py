"""Targets, tiling and estimates."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import zoo
import zoo.cost
from zoo.cost import Cost, target, target_names
from zoo.cost.result import readable
from zoo.cost.target import Target, parse
from zoo.cost.tiling import best_tile
from zoo.errors import MismatchError, UnknownNameError
from zoo.graph.trace import trace
from zoo.models.sesr import SESR


def estimate(item: Any, device: Target, *, method: str = "", **options: Any) -> Cost:
    """Estimate by what the target says, whatever is installed beside the zoo."""
    return zoo.cost.estimate(item, device, method=method or device.method, **options)


ROOFLINES = [name for name in target_names() if target(name).method == "roofline"]
FULL_HD = (1, 1, 1080, 1920)
TO_720P = (1, 1, 360, 640)


def m5(scale: int = 2) -> SESR:
    """Build SESR-M5 on the meta device."""
    with torch.device("meta"):
        return SESR(channels=16, blocks=5, scale=scale).eval()


def seconds(name: str, shape: tuple[int, ...], module: nn.Module) -> float:
    """Estimate a module's latency on a target."""
    return estimate(module, target(name), input_shape=shape).latency_ms / 1e3


@pytest.mark.parametrize("name", target_names())
def test_every_target_names_its_sources(name: str) -> None:
    device = target(name)
    assert device.summary
    for number in (*device.numbers.values(), *device.rates.values()):
        assert len(number.source) > 10
    # A class of device may rest on assumptions; a named chip's sizes and clock may not.
    if device.method == "roofline" and not name.startswith(("phone", "cortex")):
        assert not {"clock_hz", "sram_bytes", "rates.conv2d"} & set(device.assumed)


def test_unknown_target_lists_near_misses() -> None:
    with pytest.raises(UnknownNameError, match="did you mean ethos-u55-"):
        target("ethos-u55-265")


GOOD = """
summary = "a device"
method = "roofline"
dtype = "int8"
[numbers.clock_hz]
value = 1e6
confidence = "datasheet"
source = "its datasheet"
[rates.default]
value = 1
confidence = "assumed"
source = "a guess"
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1e6", "-1", "expected a positive number"),
        ("1e6", '"fast"', "expected a positive number"),
        ("datasheet", "sure", "expected one of published, datasheet, measured, assumed"),
        ('"its datasheet"', '""', "clock_hz has no source"),
        ("clock_hz", "clock_mhz", "unknown number 'clock_mhz'"),
        ("rates.default", "rates.conv2d", "rates.default is missing"),
        ('"roofline"', '"guess"', "method 'guess'"),
        ("summary", "title", "unknown field 'title'; known: summary, method"),
        ("summary = ", "# ", "summary is missing"),
        (
            "rates.default",
            "rates.conv3d",
            "unknown operator in rates 'conv3d'; did you mean conv2d",
        ),
        ("[numbers", 'fuses = ["mish"]\n[numbers', "unknown operator in fuses 'mish'"),
        ("[rates", "[steps]\ndepthwise = 2\n[rates", "unknown field steps.depthwise; known: conv"),
        ("[rates", "[steps]\nconv = [1, 1]\n[rates", "target 'x'"),
        ("[rates", "[steps]\nconv = [[0, 1]]\n[rates", "steps.conv has 0; expected a whole"),
        ("[rates", "[steps]\nconv = []\n[rates", "steps.conv is []; expected pairs"),
        ("[rates", "[steps]\nconv = [[4]]\n[rates", "steps.conv is [[4]]; expected pairs"),
        ("[rates", '[steps]\noutput_channels = "4"\n[rates', "steps.output_channels has '4'"),
        ("[rates", "[steps]\ndepthwise_kernel = -4\n[rates", "expected a whole number"),
        ("[rates", '[steps]\nconfidence = "sure"\n[rates', "expected one of published"),
        ("1e6", "inf", "expected a positive number"),
        ("[numbers", 'notes = "slow"\n[numbers', "notes is 'slow'; expected a list of texts"),
        ("[numbers", "notes = [1]\n[numbers", "notes is [1]; expected a list of texts"),
        ("[numbers", 'fuses = "relu"\n[numbers', "fuses is 'relu'; expected a list of texts"),
        ('"a device"', "3", "summary is 3; expected a text"),
        ("[numbers", "interval_source = 3\n[numbers", "interval_source is 3; expected a text"),
        ("[numbers", "steps = 3\n[numbers", "steps is 3; expected a table"),
        ("[numbers", "[[numbers", "target 'x'"),
        ("[numbers", "interval = [1.0, 0.5]\n[numbers", "expected [low, high]"),
        ("[numbers", "interval = [0.5, 1.0]\n[numbers", "interval has no interval_source"),
        ("[numbers", "[array]\nbanks = 24\n[numbers", "array.accumulator_granule is missing"),
    ],
)
def test_wrong_target_files_are_refused(old: str, new: str, message: str) -> None:
    assert parse("x", GOOD).get("clock_hz") == 1e6
    with pytest.raises(MismatchError, match="target 'x'") as caught:
        parse("x", GOOD.replace(old, new, 1))
    assert message in str(caught.value)


def test_a_target_may_be_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "my-board.toml"
    with pytest.raises(MismatchError, match="No such file or directory; expected a TOML file"):
        target(str(file))
    file.write_text(GOOD)
    assert target(str(file)) == parse("my-board", GOOD)
    cost = estimate(m5(), target(str(file)), input_shape=(1, 1, 8, 8))
    assert cost.target == "my-board"
    file.write_text(GOOD.replace("1e6", "2e6"))
    assert target(str(file)).get("clock_hz") == 2e6  # as it is now
    file.write_bytes(b"\xff")
    with pytest.raises(MismatchError, match="my-board"):
        target(str(file))


@pytest.mark.parametrize("name", ROOFLINES)
def test_estimate_is_complete_and_says_how_it_was_obtained(name: str) -> None:
    cost = estimate(m5(), target(name), input_shape=TO_720P)
    assert cost.parameters == {"weights": 13520, "biases": 100, "slopes": 80, "constants": 0}
    assert (cost.macs, cost.graph, cost.dtype) == (13520 * 360 * 640, "deployed", "int8")
    assert cost.weight_bytes == 13520 + 4 * 100 + 80
    assert cost.obtained["macs"].startswith("exact")
    assert cost.obtained["latency_ms"] == "estimated (roofline)"
    assert cost.latency_ms > 0
    assert (cost.energy_mj is None) == ("power_w" not in target(name).numbers)
    value = json.loads(json.dumps(cost.to_json(), allow_nan=False))
    assert value["parameters"]["total"] == 13700
    line = str(cost)
    assert "\n" not in line
    assert name in line
    assert "13,700 parameters" in line


def test_720p_does_not_fit_a_microcontroller_and_a_tile_is_named() -> None:
    device = target("stm32f746-216mhz-cmsisnn")
    cost = estimate(m5(), device, input_shape=TO_720P)
    assert not cost.fits
    assert cost.fits.flash
    assert cost.tiled is not None
    assert cost.runs_tiled
    tile = cost.tiled
    assert tile.halo == 9
    assert f"{tile.count} tiles of {tile.height}x{tile.width}" in cost.fits.reasons[0]
    assert tile.peak_activation_bytes <= (device.sram_bytes or 0)
    assert tile.macs > cost.macs
    alone = estimate(m5(), device, input_shape=(1, 1, tile.height, tile.width))
    assert alone.fits
    assert alone.tiled is None
    assert alone.latency_ms * tile.count == pytest.approx(cost.latency_ms)


def test_a_graph_alone_cannot_be_tiled() -> None:
    device = target("stm32f746-216mhz-cmsisnn")
    cost = estimate(trace(m5(), TO_720P), device)
    assert (bool(cost.fits), cost.tiled) == (False, None)
    assert "give a smaller input" in cost.fits.reasons[0]


def test_weights_that_exceed_flash_are_named() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(2048, 1024)).eval()
    cost = estimate(module, target("stm32f746-216mhz-cmsisnn"), input_shape=(1, 2048))
    assert (cost.fits.sram, cost.fits.flash) == (True, False)
    assert "2.0 MiB of weights exceed 1.0 MiB of flash" in cost.fits.reasons[0]


def test_phone_npu_waits_for_dram_on_full_hd_and_tiling_gains() -> None:
    # SESR's paper tiles 1080p to 4K on a 4-TOP/s NPU because the feature maps (33 MB each) do not
    # fit. Only the direction is tested; the device's bandwidth is assumed.
    device = target("phone-npu-4tops")
    whole = estimate(trace(m5(), FULL_HD), device)
    tiled = estimate(m5(), device, input_shape=FULL_HD)
    assert (whole.bound, whole.tiled) == ("dram", None)
    assert tiled.runs_tiled
    assert tiled.bound == "compute"
    assert tiled.latency_ms < 0.75 * whole.latency_ms
    assert tiled.fits
    assert whole.fits


def test_ethos_u_names_the_operator_left_to_the_cpu() -> None:
    cost = estimate(m5(), target("ethos-u55-256"), input_shape=(1, 1, 90, 160))
    assert cost.fits
    assert [op.kind for op in cost.ops if op.bound == "host"] == ["depth_to_space"]
    assert any("DEPTH_TO_SPACE" in note and "host CPU" in note for note in cost.notes)
    assert not any("rates.mean" in note for note in cost.notes)  # no such op here


def test_ethos_u_needs_a_second_copy_for_a_prelu() -> None:
    # Vela 5.2 reports 914.0625 KiB for this network: four maps of 16 channels, and the input.
    cost = estimate(m5(), target("ethos-u55-256"), input_shape=(1, 1, 90, 160))
    assert cost.peak_activation_bytes == 90 * 160 * (4 * 16 + 1) == 914.0625 * 1024


def test_one_convolution_by_hand() -> None:
    with torch.device("meta"):
        conv = nn.Conv2d(16, 16, 3, padding=1).eval()
        classifier = nn.Linear(640, 128).eval()
    # U55-256: 9 taps round up to 12, 16 input and 16 output channels are whole steps; Vela 5.2
    # counts 174 550 cycles with the edges of blocks.
    cycles = 90 * 160 * 16 * 12 * 16 / 256
    assert 1 < seconds("ethos-u55-256", (1, 16, 90, 160), conv) * 500e6 / cycles < 1.05
    # A fully connected layer waits for its weights, at 0.5 GB/s.
    assert seconds("ethos-u55-256", (1, 640), classifier) == pytest.approx(82432 / 0.5e9, rel=0.05)
    # On the Cortex-M7 at 216 MHz: a rate of MACs, and a cost of each output.
    board = target("stm32f746-216mhz-cmsisnn")
    rate, each = board.rates["conv2d"].value, board.get("cycles_per_output") or 0.0
    expected = 90 * 160 * 16 * (144 / rate + each) / 216e6
    assert seconds("stm32f746-216mhz-cmsisnn", (1, 16, 90, 160), conv) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "board", "published_ms"),
    [  # MicroNets, arXiv 2010.11267, table 4
        ("micronet-kws-s", "stm32f446-180mhz-cmsisnn", 250),
        ("micronet-kws-m", "stm32f446-180mhz-cmsisnn", 426),
        ("micronet-kws-s", "stm32f746-216mhz-cmsisnn", 109),
        ("micronet-kws-l", "stm32f746-216mhz-cmsisnn", 610),
        ("micronet-ad-m", "stm32f767-216mhz-cmsisnn", 567),
    ],
)
def test_micronets_take_what_their_paper_says(name: str, board: str, published_ms: float) -> None:
    given = zoo.estimate(name, board)
    assert given.latency_ms == pytest.approx(published_ms, rel=0.1)
    assert given.interval_ms is not None
    assert given.interval_ms[0] < published_ms < given.interval_ms[1]


def test_more_multipliers_and_more_blocks() -> None:
    shape = (1, 1, 64, 64)
    times = [seconds(f"ethos-u55-{macs}", shape, m5()) for macs in (64, 128, 256)]
    assert times == sorted(times, reverse=True)
    with torch.device("meta"):
        m11 = SESR(channels=16, blocks=11, scale=2).eval()
    assert seconds("ethos-u55-256", shape, m11) > times[-1]


def test_measured_on_this_cpu() -> None:
    module = m5()
    cost = estimate(module, target("cpu"), input_shape=(1, 1, 24, 32))
    assert (cost.method, cost.bound, cost.dtype) == ("measured", None, "float32")
    assert cost.latency_ms > 0
    for words in ("measured (median of", "threads", f"torch {torch.__version__}"):
        assert words in cost.obtained["latency_ms"]
    assert all(parameter.is_meta for parameter in module.parameters())
    assert cost.weight_bytes == 4 * 13700


@pytest.mark.parametrize(
    ("name", "method", "error"),
    [
        ("cpu", "roofline", MismatchError),
        ("ethos-u55-256", "measured", MismatchError),
        ("ethos-u55-256", "rofline", UnknownNameError),
    ],
)
def test_wrong_methods_are_refused(name: str, method: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        estimate(m5(), target(name), method=method, input_shape=(1, 1, 8, 8))


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(MismatchError, match="give input_shape"):
        estimate(m5(), target("ethos-u55-256"))
    with pytest.raises(MismatchError, match="give the module"):
        estimate(trace(m5(), (1, 1, 8, 8)), target("cpu"))


@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    halo=st.integers(0, 9),
    budget=st.integers(1, 20_000),
    multiple=st.sampled_from([1, 1, 2, 4]),
)
def test_tiles_cover_the_image_within_the_budget(
    height: int, width: int, halo: int, budget: int, multiple: int
) -> None:
    height, width, halo = (n * multiple for n in (height, width, halo))
    tile = best_tile(height, width, halo, budget, multiple)
    if tile is None:
        least = 2 * halo + multiple
        assert min(height, least) * min(width, least) > budget
        return
    assert (tile.height % multiple, tile.width % multiple) == (0, 0)
    assert tile.height * tile.width <= budget
    assert tile.height <= height
    assert tile.width <= width
    rows, columns = (pieces(*pair, halo) for pair in ((height, tile.height), (width, tile.width)))
    assert tile.count == rows * columns
    if height * width <= budget:
        assert tile.count == 1


def test_tiles_of_a_network_in_steps_of_two_pixels_are_even() -> None:
    cost = zoo.estimate("looks", "stm32f746-216mhz-cmsisnn")
    assert cost.tiled is not None
    assert (cost.tiled.height % 2, cost.tiled.width % 2) == (0, 0)
    with pytest.raises(MismatchError, match="has 95 rows and 96 columns; expected even numbers"):
        zoo.estimate("looks", "stm32f746-216mhz-cmsisnn", input_shape=(1, 6, 95, 96))


def pieces(length: int, size: int, halo: int) -> int:
    """Count tiles along a line by walking: each keeps what is not halo at an inner edge."""
    covered, count = 0, 0
    while covered < length:
        count += 1
        start = 0 if covered == 0 else covered - halo
        end = start + size
        covered = length if end >= length else end - halo
    return count


def test_readable() -> None:
    assert [readable(n) for n in (5, 327_680, 2 * 1024**2)] == ["5 B", "320.0 KiB", "2.0 MiB"]


def test_reading_targets_needs_no_torch() -> None:
    code = (
        "import sys; from zoo.cost import estimate, target, target_names; "
        "[target(name) for name in target_names()]; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_notebook_shows_a_table_with_how_each_number_is_known():
    page = estimate(m5(), target("ethos-u55-256"), input_shape=TO_720P)._repr_html_()
    assert page.startswith("<table><caption>ethos-u55-256</caption>")
    for shown in (" MACs", " ms", "exact", "estimated"):
        assert shown in page
