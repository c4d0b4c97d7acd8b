"""Learned costs: what they are made of, what they say of themselves, what they refuse."""

import dataclasses
import json
import time

import numpy as np
import pytest
import torch
from torch import nn

from zoo import cost
from zoo.cost.ethos_u.costs import laid_out, memories
from zoo.cost.ethos_u.schedule import spent
from zoo.cost.learned import learning
from zoo.cost.learned.features import NAMES, all_passes_of, compiled_order, passes_of
from zoo.cost.learned.layers import layers
from zoo.cost.learned.model import Facts, Predictor, batch, load, save
from zoo.cost.learned.widths import LatencyOfWidths
from zoo.cost.networks.builder import Builder
from zoo.cost.networks.families import FAMILIES, network
from zoo.cost.networks.rows import without_values
from zoo.deploy.tflite_write import serialize_tflite
from zoo.errors import MismatchError

TARGET = cost.target("ethos-u55-128")
FACTS = Facts(target="ethos-u55-128", networks=9, interval=(0.9, 1.2), source="a test")


def graph(index: int):
    return without_values(network(5, index)[1])


@pytest.fixture(scope="module")
def some():
    return [passes_of(graph(index), TARGET) for index in range(14)]


@pytest.fixture(scope="module")
def wild(some):
    """A predictor with random factors."""
    torch.manual_seed(0)
    found = Predictor()
    found.fit_ranges(batch(some).features)
    nn.init.normal_(found.head.weight, std=0.1)
    return found.eval().requires_grad_(False)


@pytest.fixture
def file(wild, tmp_path):
    path = tmp_path / "w.safetensors"
    save(wild, FACTS, path)
    return path


def compiled(content: bytes, target: str = "ethos-u55-128"):
    pytest.importorskip("ethosu.vela")
    from zoo.deploy.vela import configuration
    from zoo.deploy.vela_many import Compiler

    with Compiler(configuration(target)[0]) as compiler:
        return compiler.compiled(content, "a network")


@pytest.mark.parametrize("index", range(len(FAMILIES)))
def test_operators_run_in_the_compilers_order(index: int) -> None:
    drawn = network(2, index)[1]
    tables = compiled(serialize_tflite(drawn))["tables"]
    numbers = {row["id"]: int(row["ext_key"] or -1) for row in tables["source"]}
    busy = [numbers[r["source_id"]] for r in tables["perf"] if int(r["op_cycles"] or 0)]
    theirs = [drawn.ops[place].name for place in dict.fromkeys(busy) if place >= 0]
    ours = [op.name for op in compiled_order(drawn) if op.name in set(theirs)]
    assert ours == theirs


@pytest.mark.parametrize("channels", [4, 6, 8])
def test_few_channels_cost_a_pass_of_their_own(channels: int) -> None:
    """Below eight channels Vela makes an activation a pass over one long line."""
    b = Builder(np.random.default_rng(0), 40, 40, 8)
    b.activation, b.zeros, b.levels = "relu", 0.0, 255
    x = b.conv(b.conv(b.input, channels, (3, 3)), 16, (3, 3))
    drawn = b.graph(b.conv(x, 16, activation=None))
    found = passes_of(drawn, TARGET)
    assert len(found.cycles) == (4 if channels < 8 else 3)
    report = compiled(serialize_tflite(drawn))
    assert float(found.cycles.sum()) == pytest.approx(report["totalCycles"], rel=0.05)


@pytest.mark.parametrize("name", ["ethos-u55-128", "ethos-u55-32", "ethos-u65-256"])
def test_known_layers_are_those_taken_apart_anew(name: str) -> None:
    """With weights and without, whatever was seen before, alone and together."""
    device = cost.target(name)
    drawn = [network(4, index)[1] for index in range(14)]
    drawn += [without_values(one) for one in drawn]
    together = all_passes_of(drawn, device)
    again = all_passes_of([dataclasses.replace(one) for one in drawn], device)
    for one, found, later in zip(drawn, together, again, strict=True):
        layout = laid_out(dataclasses.replace(one, ops=compiled_order(one)), device)
        want = spent(layout.jobs, device.array, memories(device))
        assert found.cycles.tolist() == [np.float32(pass_.cycles) for pass_ in want]
        encoded = [0 if job.again else job.encoded for job in layout.jobs]
        assert found.encoded.tolist() == encoded
        assert np.array_equal(found.features, later.features)
        assert np.array_equal(found.features, passes_of(one, device).features)


def test_padding_and_position_tell_layers_apart() -> None:
    """What is not in a layer's shapes, and yet decides its passes."""

    def line(stride: int, second: int):
        b = Builder(np.random.default_rng(0), 32, 32, 16)
        b.explicit = False
        x = b.conv(b.input, 16, (3, 3))
        y = b.conv(x, 16, (3, 3), stride=stride)
        z = b.concat([y, b.conv(x, second, (3, 3), stride=stride, like=y)])
        return b.graph(b.conv(z, 16))

    drawn = [line(stride, second) for stride in (1, 2) for second in (16, 12)]
    for one, found in zip(drawn, all_passes_of(drawn, TARGET), strict=True):
        layout = laid_out(dataclasses.replace(one, ops=compiled_order(one)), TARGET)
        want = spent(layout.jobs, TARGET.array, memories(TARGET))
        assert found.cycles.tolist() == [np.float32(pass_.cycles) for pass_ in want]


def test_what_an_operator_holds_is_what_the_compiler_says() -> None:
    """Activations in bricks, views, joints, sums in place, and weights that are read again."""
    pytest.importorskip("ethosu.vela")
    from zoo.deploy.vela import configuration
    from zoo.deploy.vela_many import Compiler

    near, peaks, drawings = [], [], [network(3, index)[1] for index in range(14)]
    with Compiler(configuration(TARGET.name)[0]) as compiler:
        reports = [compiler.compiled(serialize_tflite(one), "a network") for one in drawings]
    for drawn, report in zip(drawings, reports, strict=True):
        seen = passes_of(drawn, TARGET)
        numbers = {row["id"]: int(row["ext_key"] or -1) for row in report["tables"]["source"]}
        theirs: dict[int, int] = {}
        for row in report["tables"]["perf"]:
            place = numbers.get(row["source_id"], -1)
            theirs[place] = max(theirs.get(place, 0), int(row["staging_usage"] or 0))
        kept = seen.buffer * (np.expm1(seen.features[:, NAMES.index("reads")]) > 1.5)
        after = np.append(kept[1:], 0)
        held = seen.live + kept
        kinds = [drawn.ops[place].kind for place in seen.operators]
        for place, kind, ours in zip(seen.operators, kinds, held, strict=True):
            if kind not in ("mean", "softmax", "prelu", "resize_bilinear", "concat"):
                near.append(abs(theirs[place] / ours - 1) < 0.01)
        peaks.append(report["peaks"]["Sram"] / (held + after).max())
    assert np.mean(near) > 0.85
    assert 0.99 < np.median(peaks) < 1.01


def test_a_sum_spares_what_is_read_later_under_another_name() -> None:
    b = Builder(np.random.default_rng(0), 16, 16, 16)
    x = b.conv(b.input, 16)
    view = b._op("reshape", (x,), (1, 16, 16, 16), {"shape": (1, 16, 16, 16)}, like=x)
    other = b.conv(b.input, 16)
    drawn = b.graph(b.add(b.add(view, other), x))
    seen = passes_of(drawn, TARGET)
    sums = [drawn.ops[place].kind == "add" for place in seen.operators]
    size = 16 * 16 * 16
    assert seen.live[sums].tolist() == [2 * size, 2 * size]  # over `other`, then over either


def test_known_layers_are_several_times_faster() -> None:
    drawn = [without_values(network(8, index)[1]) for index in range(42)]
    layers.cache_clear()
    times = []
    for _ in range(3):
        graphs = [dataclasses.replace(one) for one in drawn]
        start = time.process_time()
        all_passes_of(graphs, TARGET)
        times.append(time.process_time() - start)
    assert min(times[1:]) < times[0] / 3


def test_what_has_no_array_is_refused() -> None:
    with pytest.raises(MismatchError, match="has no array; expected an Ethos-U"):
        passes_of(network(4, 3)[1], cost.target("phone-npu-4tops"))


def test_factors_of_one_are_the_cycle_model(some) -> None:
    found = Predictor().eval()(batch(some))
    want = [float(one.cycles.sum()) for one in some]
    assert found.cycles.tolist() == pytest.approx(want, rel=1e-5)
    assert found.encoded_bytes.tolist() == pytest.approx([float(o.encoded.sum()) for o in some])


def test_a_batch_predicts_what_each_network_alone_does(some, wild) -> None:
    with torch.inference_mode():
        whole = wild(batch(some))
        alone = [wild(batch([one])) for one in some]
    for name in ("cycles", "encoded_bytes", "sram_bytes"):
        each = [float(getattr(one, name)) for one in alone]
        assert getattr(whole, name).tolist() == pytest.approx(each, rel=1e-4)


def test_two_thousand_networks_a_second_on_one_thread(some, wild) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        many = batch(some * 40)
        with torch.inference_mode():
            wild(many)
            start = time.process_time()
            wild(many)
            spent = time.process_time() - start
    finally:
        torch.set_num_threads(threads)
    assert many.count / spent > 2000


def test_weights_come_back_and_others_are_refused(some, wild, file, tmp_path) -> None:
    again, facts = load(file)
    assert facts == FACTS
    assert torch.equal(again(batch(some)).cycles, wild(batch(some)).cycles)
    newer = tmp_path / "newer.safetensors"
    save(wild, dataclasses.replace(FACTS, format_version=3), newer)
    with pytest.raises(
        MismatchError, match=r"has format 3 of a predictor; this version .* reads 2"
    ):
        load(newer)
    (tmp_path / "no.safetensors").write_bytes(b"nothing")
    with pytest.raises(MismatchError, match="cannot be read as weights of a predictor"):
        load(tmp_path / "no.safetensors")
    with pytest.raises(MismatchError, match=r"ends in \.safetensors"):
        save(wild, FACTS, tmp_path / "w.pt")


def test_what_lies_outside_is_said(some, wild, file) -> None:
    assert all(not wild.outside(one) for one in some)
    b = Builder(np.random.default_rng(0), 64, 64, 3)
    wide = b.graph(b.conv(b.input, 16, (13, 13)))
    (line,) = [n for n in wild.outside(passes_of(wide, TARGET)) if n.startswith("conv kernel rows")]
    assert line.startswith("conv kernel rows 13 (1 to ")
    found = cost.estimate(wide, TARGET, method="learned", weights=str(file))
    (note,) = [n for n in found.notes if n.startswith("outside what it was taught on")]
    assert "conv kernel rows 13" in note
    assert note.endswith("the interval does not hold")
    b = Builder(np.random.default_rng(0), 32, 32, 3)
    line = b.graph(b.function(b.conv(b.input, 8, activation=None), "tanh"))
    assert wild.outside(passes_of(line, TARGET)) == []  # a table, as hard-swish is
    inside = cost.estimate(network(5, 0)[1], TARGET, method="learned", weights=str(file))
    assert not any("outside" in note for note in inside.notes)


def test_an_estimate_holds_together(file, wild) -> None:
    drawn = network(5, 3)[1]
    found = cost.estimate(drawn, TARGET, method="learned", weights=str(file))
    assert found.method == "learned"
    assert sum(op.latency_ms for op in found.ops) == pytest.approx(found.latency_ms, rel=1e-5)
    assert found.interval_ms == pytest.approx((0.9 * found.latency_ms, 1.2 * found.latency_ms))
    direct = wild(batch([passes_of(drawn, TARGET)]))
    assert found.latency_ms == pytest.approx(1e3 * float(direct.cycles) / 500e6, rel=1e-5)
    assert found.weight_bytes == round(float(direct.encoded_bytes))
    priced = cost.estimate(drawn, TARGET, method="roofline")
    stored = sum(op.encoded_bytes for op in priced.ops)  # the same beside it: scales and tables
    assert found.flash_bytes - found.weight_bytes == priced.flash_bytes - stored > 0
    assert found.macs == drawn.macs
    assert "learned from a test" in found.obtained["latency_ms"]
    json.dumps(found.to_json())


def test_wrong_targets_and_files_are_one_line(file, tmp_path) -> None:
    drawn = network(5, 0)[1]
    with pytest.raises(MismatchError, match="the weights predict ethos-u55-128, not ethos-u55-256"):
        cost.estimate(drawn, cost.target("ethos-u55-256"), method="learned", weights=str(file))
    with pytest.raises(MismatchError, match="no learned weights for ethos-u55-32; there are"):
        cost.estimate(drawn, cost.target("ethos-u55-32"), method="learned")
    with pytest.raises(MismatchError, match="is not an Ethos-U;"):
        cost.estimate(drawn, cost.target("stm32f746-216mhz-cmsisnn"), method="learned")
    with pytest.raises(MismatchError, match="cannot be read"):
        cost.estimate(drawn, TARGET, method="learned", weights=str(tmp_path / "none"))


def build(widths):
    """Two layers of given widths, the same whatever the order of calls."""
    b = Builder(np.random.default_rng(0), 24, 24, 3)
    b.explicit, b.zeros, b.levels, b.heavy = False, 0.0, 255, False
    x = b.conv(b.input, widths[0], (3, 3), stride=2)
    x = b.conv(b.depthwise(x), widths[1])
    return b.graph(b.dense(b.pool(x, "avg_pool2d", (12, 12)), 10))


def test_latency_of_widths_is_exact_on_the_grid_and_has_its_gradient(wild) -> None:
    latency = LatencyOfWidths(build, wild, TARGET)

    def exact(*widths):
        return 2e-6 * float(wild(batch([passes_of(build(widths), TARGET)])).cycles.detach())

    grid = torch.tensor([[16.0, 24.0], [32.0, 8.0]])
    assert latency(grid).tolist() == pytest.approx([exact(16, 24), exact(32, 8)], rel=1e-5)
    widths = torch.tensor([[18.0, 29.0]], requires_grad=True)  # the second is further on its way
    value = latency(widths)
    value.sum().backward()
    corners = exact(16, 24), exact(16, 32), exact(24, 32)
    want = corners[0] + 0.625 * (corners[1] - corners[0]) + 0.25 * (corners[2] - corners[1])
    assert float(value.detach()) == pytest.approx(want, rel=1e-5)
    slopes = [(corners[2] - corners[1]) / 8, (corners[1] - corners[0]) / 8]
    assert widths.grad is not None
    assert widths.grad[0].tolist() == pytest.approx(slopes, rel=1e-3)
    near = torch.tensor([[24.0 - 1e-4, 24.0], [24.0, 24.0], [24.0 + 1e-4, 24.0]])
    assert latency(near).tolist() == pytest.approx([exact(24, 24)] * 3, rel=1e-4)
    with pytest.raises(MismatchError, match="each 8 or more"):
        latency(torch.tensor([[4.0, 8.0]]))


def test_a_search_can_go_down_its_gradient() -> None:
    """The penalty's gradient leads to a network of half the latency."""
    latency = LatencyOfWidths(build, Predictor().eval(), TARGET)
    widths = torch.tensor([[60.0, 60.0]], requires_grad=True)
    aim, off = 0.5 * float(latency(widths.detach())), []
    optimizer = torch.optim.SGD([widths], lr=160.0)
    for _ in range(20):
        optimizer.zero_grad()
        loss = (latency(widths) / aim - 1).square().sum()
        off.append(float(loss.detach()) ** 0.5)
        loss.backward()
        optimizer.step()
        widths.data.clamp_(8, 64)
    assert off[0] == pytest.approx(1)
    assert min(off) < 0.1


def test_training_lowers_the_error_and_holds_networks_out(some) -> None:
    given = [
        learning.Example(
            family="any",
            number=index,
            passes=one,
            cycles=2 * float(one.cycles.sum()),
            by_pass=2 * np.bincount(one.operators, one.cycles)[one.operators].astype(np.float32),
            held=one.live,
            encoded_bytes=float(one.encoded.sum()),
            sram_bytes=float(one.live.max()) + 1,
        )
        for index, one in enumerate(some * 8)
    ]
    predictor, facts = learning.trained(given, "t", "s", learning.Options(epochs=16))
    assert facts.errors["latency"] < 15  # from 50
    assert facts.interval[0] <= 1.1
    assert sum(map(len, parts := learning.split(given))) == len(given)
    assert not {one.number for one in parts[0]} & {one.number for one in (*parts[1], *parts[2])}
    assert learning.errors(learning.ratios(predictor, parts[2])) == facts.errors
