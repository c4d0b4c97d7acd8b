"""Several methods side by side, two models side by side, pictures, and what fits a device."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import zoo
from zoo import cost
from zoo.cli import main
from zoo.cost.deployed import integer
from zoo.cost.pictures import Dot, front
from zoo.cost.result import milliseconds
from zoo.cost.target import TARGETS
from zoo.errors import MismatchError
from zoo.graph.ir import Op, Tensor

SHAPE = (1, 3, 16, 16)
BOARD = "stm32f746-216mhz-cmsisnn"


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()


def test_all_methods_price_what_they_can(caplog: pytest.LogCaptureFixture) -> None:
    found = zoo.estimate(network(), [BOARD, "cpu"], method="all", input_shape=SHAPE)
    ways = [(c.target, c.method) for c in found if c.method != "simulated"]  # needs valgrind
    assert ways == [(BOARD, "roofline"), ("cpu", "measured")]
    with pytest.raises(MismatchError, match=r"give a list of targets: \['cpu'\]"):
        zoo.estimate(network(), "cpu", method="all", input_shape=SHAPE)


def test_an_estimate_says_between_what_it_lies_and_what_it_moves() -> None:
    priced = cost.estimate(
        network(), cost.target("ethos-u55-128"), method="roofline", input_shape=SHAPE
    )
    assert priced.interval_ms is not None
    low, high = priced.interval_ms
    assert low < priced.latency_ms < high
    assert priced.flash_bytes is not None
    assert priced.stored_bytes == priced.flash_bytes
    assert {"sram", "flash"} <= set(priced.moved_bytes)
    value = json.loads(json.dumps(priced.to_json()))
    assert value["interval_ms"] == [low, high]
    assert sum(op["encoded_bytes"] for op in value["ops"]) > 0


def test_vela_is_taken_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.cost import pricing

    device = cost.target("ethos-u55-128")
    monkeypatch.setattr(pricing.importlib.util, "find_spec", lambda name: object())
    assert pricing.chosen_method(device, "auto") == "vela"
    assert pricing.chosen_method(device, "roofline") == "roofline"
    assert pricing.chosen_method(cost.target(BOARD), "auto") == "roofline"
    monkeypatch.setattr(pricing.importlib.util, "find_spec", lambda name: None)
    assert pricing.chosen_method(device, "auto") == "roofline"


def test_a_total_without_the_hosts_part_is_never_bare() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.PixelShuffle(2)).eval()
    device = cost.target("ethos-u55-128")
    priced = cost.estimate(module, device, method="roofline", input_shape=SHAPE)
    assert "at least " in str(priced)
    assert "DEPTH_TO_SPACE" in priced.details[0]
    assert "at least" not in str(
        cost.estimate(network(), device, method="roofline", input_shape=SHAPE)
    )


def test_two_models_side_by_side(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["estimate", "sesr-m5-x2", "--target", BOARD, "--shape", "1,1,16,16"]
    picture = tmp_path / "a.png"
    assert main([*words, "--compare", "sesr-m3-x2", "--plot", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines[1:3]] == ["sesr-m5-x2", "sesr-m3-x2"]
    first, second = (
        zoo.estimate(name, BOARD, input_shape=(1, 1, 16, 16)).latency_ms
        for name in ("sesr-m5-x2", "sesr-m3-x2")
    )
    assert lines[3].split()[:2] == ["x", f"{second / first:.2f}"]
    with Image.open(picture) as image:
        assert image.size[0] == 1500
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 3
    assert main([*words, "--plot", str(tmp_path / "a.jpg")]) == 1
    assert "ends in .png" in capsys.readouterr().err


def test_a_picture_and_the_memory_of_a_target_of_ones_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    board, picture = tmp_path / "mine.toml", tmp_path / "a.png"
    board.write_text((TARGETS / f"{BOARD}.toml").read_text())
    words = ["estimate", "sesr-m5-x2", "--shape", "1,1,16,16", "--target", str(board)]
    assert main([*words, "--memory", "--plot", str(picture)]) == 0
    assert picture.stat().st_size
    assert "NOTHING IS SMALLER" in capsys.readouterr().out


def test_what_fits_a_device_fastest_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["list", "micronet-*", "--fits", BOARD, "--task", "keyword-spotting"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines[1:]]
    assert names == ["micronet-kws-s", "micronet-kws-m", "micronet-kws-l"]
    assert "accuracy 0.9900 on FSDD test (.fsdd)" in lines[1]
    assert main([*words, "--plot", str(tmp_path / "b.png")]) == 0
    with Image.open(tmp_path / "b.png") as image:
        assert image.size == (1500, 900)
    assert main(["list", "--plot", "b.png"]) == 1
    assert "add --fits TARGET" in capsys.readouterr().err


def test_the_front_holds_what_nothing_beats() -> None:
    a, b, c = Dot("a", 1.0, 0.5), Dot("b", 2.0, 0.4), Dot("c", 3.0, 0.9)
    assert front([c, b, a]) == [a, c]


def test_this_machine_becomes_a_target(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "desk.toml"
    assert main(["target", "measure", "--out", str(file)]) == 0
    device = cost.target(str(file))
    assert {number.confidence for number in device.rates.values()} == {"measured"}
    module = nn.Sequential(nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 1)).eval()
    shape = (1, 16, 96, 96)
    rough = cost.estimate(module, device, input_shape=shape)
    timed = cost.estimate(module, cost.target("cpu"), input_shape=shape)
    # Another load of a shared machine may double a time; ten times would be a wrong unit.
    assert 0.1 < rough.latency_ms / timed.latency_ms < 10
    assert main(["target", "measure", "--out", "desk.txt"]) == 1
    assert "ends in .toml" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["ethos-u55-128", "stm32f746-216mhz-cmsisnn"])
def test_bad_items_are_refused_in_a_line(target: str) -> None:
    class Untraceable(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    device = cost.target(target)
    with pytest.raises(MismatchError, match="Untraceable"):
        cost.estimate(Untraceable().eval(), device, method="roofline", input_shape=SHAPE)
    with pytest.raises(MismatchError, match=r"\(1, 3, 16\)"):
        cost.estimate(
            nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(2), nn.Linear(4, 4)).eval(),
            device,
            method="roofline",
            input_shape=(1, 3, 16),
        )


def test_an_operator_of_the_host_on_ethos_u_says_why() -> None:
    module = nn.Sequential(nn.Upsample(scale_factor=3, mode="bilinear")).eval()
    device = cost.target("ethos-u55-128")
    given = cost.estimate(module, device, method="roofline", input_shape=SHAPE)
    assert "a bilinear resize that is not by 2, 4 or 8" in given.host[0]
    assert given.ops[0].bound == "host"


def test_an_option_of_another_method_says_whose_it_is() -> None:
    module = nn.Conv2d(1, 2, 3).eval()
    board = cost.target("stm32f746-216mhz-cmsisnn")
    with pytest.raises(
        MismatchError, match="'roofline' has no option 'drone'; it is one of method f1"
    ):
        cost.estimate(module, board, input_shape=(1, 1, 8, 8), drone="dji-spark")
    with pytest.raises(MismatchError, match="no option 'height'; no method has it"):
        cost.estimate(module, board, input_shape=(1, 1, 8, 8), height=3)


def test_the_host_of_an_ethos_u_converts_floats() -> None:
    graph = integer(nn.Conv2d(1, 2, 3).eval(), (1, 1, 8, 8))
    (whole,) = graph.inputs
    tensors = dict(graph.tensors)
    tensors["floats"] = Tensor(
        name="floats", shape=tensors[whole].shape, dtype="float32", kind="input"
    )
    tensors[whole] = dataclasses.replace(tensors[whole], kind="activation")
    first = Op(
        name="first", kind="quantize", inputs=("floats",), outputs=(whole,),
        attributes={}, macs=0, module="",
    )  # fmt: skip
    graph = dataclasses.replace(graph, tensors=tensors, ops=(first, *graph.ops), inputs=("floats",))
    given = cost.estimate(graph, cost.target("ethos-u55-128"), method="roofline")
    (line,) = given.host
    assert line.startswith("QUANTIZE at the top level is a conversion of floats")


def test_a_notebook_shows_several_costs_side_by_side() -> None:
    targets = ["ethos-u55-128", BOARD]
    found = zoo.estimate(network(), targets, method="roofline", input_shape=SHAPE)
    assert isinstance(found, list)
    page = found._repr_html_()  # type: ignore[attr-defined]
    rows = {row.split("</th>")[0].split("<th>")[1]: row for row in page.split("<tr>")[1:]}
    assert [page.count(f"<th>{name}</th>") for name in targets] == [1, 1]
    for number in ("latency, ms", "method", "fits", "latency known", "input"):
        assert rows[number].count("<td>") == len(targets), number
    low, high = map(milliseconds, found[0].interval_ms or (0, 0))
    assert f"<td>{low} to {high}</td>" in rows["90 % within, ms"]
    assert "estimated (roofline)" in rows["latency known"]
    assert "<td>1x3x16x16 int8</td>" in rows["input"]


def test_json_goes_into_a_file_of_any_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["estimate", "mlperf-tiny-ic", "--target", BOARD]
    assert main([*words, "--json"]) == 0
    printed = capsys.readouterr().out
    for name in ("costs.json", "costs.txt", "costs"):
        assert main([*words, "--out", str(tmp_path / name)]) == 0
        assert json.loads((tmp_path / name).read_text()) == json.loads(printed)
        assert BOARD in capsys.readouterr().out
