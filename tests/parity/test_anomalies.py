"""Networks that notice machines: integers on real runtimes, and the published file's areas."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import anomaly_toycar
from tests.parity.test_tflite_reference import rounded_once
from tests.runtimes import TFLITE
from zoo.cost.memory import plan
from zoo.data import frontends, machines
from zoo.deploy.tflite_write import serialize_tflite
from zoo.deploy.vela import compile_graph
from zoo.graph.ir import Graph
from zoo.quantization.int8.post_training import quantize
from zoo.registry import find
from zoo.registry.checkpoint import build
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.kernels import INTEGER
from zoo.runtime.values import quantized


@pytest.fixture(scope="module")
def autoencoder() -> tuple[Graph, torch.Tensor]:
    """The network with random weights in int8, and windows for it."""
    torch.manual_seed(0)
    x = torch.randn(64, 640)
    graph = quantize(build(find("mlperf-tiny-ad")).eval(), [x], (1, 640))
    return graph, quantized(graph, x)


@pytest.mark.parametrize("runtime", ["tflite-micro", "litert-reference"])
def test_runtimes_compute_our_integers(
    autoencoder: tuple[Graph, torch.Tensor], runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, x = autoencoder
    if runtime.startswith("litert"):  # which rounds once in fully connected layers
        monkeypatch.setitem(INTEGER, "fully_connected", rounded_once)
    wanted: Any = IntegerNetwork(graph)(x)
    assert len(wanted.unique()) > 20
    (given,) = TFLITE[runtime](serialize_tflite(graph))(x)
    np.testing.assert_array_equal(given, wanted.numpy())


def test_all_of_it_runs_on_the_npu(autoencoder: tuple[Graph, torch.Tensor]) -> None:
    graph, _ = autoencoder
    assert plan(graph, "int8", in_place=False).arena_bytes == 768  # as of the published file
    for npu in ("ethos-u55-128", "ethos-u65-512", "ethos-u85-256"):
        report = compile_graph(graph, npu)
        assert report.macs == graph.macs == 264_192
        assert not report.cpu_ops


# Published: 0.86, and with LiteRT 0.8595. TFLite Micro, whose integers are ours, rounds twice in
# each of the ten layers.
@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "pooled", "each"),
    [
        (anomaly_toycar.Litert, 0.8595, [0.824, 0.910, 0.742, 0.955]),
        (anomaly_toycar.File, 0.8617, [0.830, 0.911, 0.744, 0.957]),
    ],
)
def test_the_published_file_has_its_published_area(
    runtime: type[anomaly_toycar.Litert | anomaly_toycar.File],
    pooled: float,
    each: list[float],
    shared_data: Path,
    tmp_path: Path,
) -> None:
    anomaly_toycar.write(shared_data / "toycar", tmp_path / "data")
    test = machines.read(tmp_path / "data/test.npz", frontends.named("log-mel-mlperf"), 5)
    assert (len(test), int(test.anomalies.sum())) == (248, 108)
    file = runtime(shared_data / "tflite/mlperf_ad01_int8.tflite")
    found = anomaly_toycar.published(file, test)["window"]
    assert found["pooled_auc"] == pytest.approx(pooled, abs=0.002)
    assert [row["auc"] for row in found["per_machine"]] == pytest.approx(each, abs=0.002)
