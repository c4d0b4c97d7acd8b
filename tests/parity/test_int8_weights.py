"""The shipped int8 weights: what rounding costs, and what an accelerator leaves to its host."""

from pathlib import Path

import pytest
import torch

import zoo
from zoo import verbs as api
from zoo.graph.rewrite import on_npu
from zoo.quantization.int8.network import QuantizedNetwork

# With PReLU, and as the authors quantized it. What integers lose on Set5, in dB: the free PReLU
# ones were trained for 600 steps, the free ReLU ones for 3,000, the others for 2,000.
LOST = {
    "sesr-m5-x2.bsds": 0.2,
    "sesr-m5-relu-x2.bsds": 0.2,
    "sesr-m5-x2.free": 0.24,
    "sesr-m5-relu-x2.free": 0.18,
}


@pytest.fixture(params=LOST)
def plain(request: pytest.FixtureRequest) -> str:
    ref: str = request.param
    return ref


@pytest.fixture
def int8(plain: str) -> str:
    return f"{plain}-int8"


@pytest.mark.data
def test_int8_loses_little(plain: str, int8: str, shared_data: Path) -> None:
    set5 = shared_data / "sr-test" / "Set5" / "2x"
    scores = {ref: zoo.evaluate(ref, set5)["psnr_y_db"] for ref in (plain, int8)}
    assert scores[plain] - scores[int8] <= LOST[plain]
    for ref, score in scores.items():
        recorded = api.checkpoint(ref).metrics["evaluations"]["Set5"]["psnr_y_db"]
        assert score == pytest.approx(recorded, abs=1e-5)


def test_no_operator_is_left_to_the_host_of_an_ethos_u(int8: str) -> None:
    vela = pytest.importorskip("zoo.deploy.vela")
    pytest.importorskip("ethosu.regor", reason="needs the extra 'tflite'")
    network = zoo.load(int8)
    assert isinstance(network, QuantizedNetwork)
    graph = on_npu(network.graph((1, 1, 90, 160)))
    for npu in ("ethos-u55-128", "ethos-u55-256", "ethos-u65-512", "ethos-u85-256"):
        assert vela.compile_graph(graph, npu).cpu_ops == ()


def test_it_computes_integers_close_to_its_own_float_weights(int8: str) -> None:
    network = zoo.load(int8)
    x = (0.2 + 0.6 * torch.rand(1, 1, 5, 6)).repeat_interleave(4, 2).repeat_interleave(4, 3)
    with torch.no_grad():
        difference = (network(x) - network.network(x)).abs()
    assert 0 < difference.mean() < 0.02
