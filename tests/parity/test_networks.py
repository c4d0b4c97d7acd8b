"""Networks of the patterns of others: the files are what the module is, in every runtime."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.parity.networks import Call
from tests.parity.signals import SHAPES, make
from tests.parity.test_tflite_reference import rounded_once
from tests.runtimes import LACKING, TFLITE, Run
from zoo.deploy.fidelity import of_samples, reference
from zoo.deploy.onnx import export_onnx
from zoo.deploy.tflite import export_tflite
from zoo.deploy.tflite_write import serialize_tflite
from zoo.deploy.vela import compile_graph
from zoo.errors import MismatchError
from zoo.graph.ir import Graph
from zoo.graph.lower import lower
from zoo.graph.rewrite import without_clamps
from zoo.graph.trace import trace
from zoo.quantization.int8.calibration import Options
from zoo.quantization.int8.post_training import quantize
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.kernels import INTEGER
from zoo.runtime.values import channels_last, computed, quantized

QUICK = ("shufflenet", "focus", "tcn", "vit", "decoder", "gru", "detector", "swin")
QUICK_ONNX = ("gru", "detector")  # torch's exporter takes seconds for each
NAMES = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SHAPES]


def having(graph: Graph) -> list[Callable[[bytes], Run]]:
    """The runtimes that have every operator of a graph."""
    kinds = {op.kind for op in graph.ops}
    return [run for name, run in TFLITE.items() if LACKING.get(name) not in kinds]


def ours(graph: Graph, q: Tensor) -> list[NDArray[Any]]:
    """The integers of each output, sample by sample where a network takes one at a time."""
    network = IntegerNetwork(graph)
    parts = [network(part) for part in ([q] if network.batched else q.split(1))]
    several = [part if isinstance(part, tuple) else (part,) for part in parts]
    return [torch.cat(column).numpy() for column in zip(*several, strict=True)]


def products(module: nn.Module, shape: tuple[int, ...]) -> int:
    """The multiplications of one sample that torch itself counts."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operator, which the counter knows not
    try:
        plain = sdpa_kernel(SDPBackend.MATH)  # nor the fused one of the CPU
        with FlopCounterMode(display=False) as counter, torch.no_grad(), plain:
            module(torch.zeros(shape))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", NAMES)
def test_files_compute_the_module(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = make(name)
    shape = SHAPES[name]
    floating = without_clamps(lower(module, shape))
    wanted = of_samples(module, x, floating)
    content = serialize_tflite(floating)
    for runtime in having(floating):
        for given, y in zip(runtime(content)(channels_last(x)), wanted, strict=True):
            np.testing.assert_allclose(given, channels_last(y).numpy(), rtol=1e-4, atol=1e-4)
    graph = quantize(module, [x], shape, Options(npu=True))
    content, q = serialize_tflite(graph), quantized(graph, channels_last(x))
    for given, integers in zip(TFLITE["tflite-micro"](content)(q), ours(graph, q), strict=True):
        np.testing.assert_array_equal(given, integers)
    monkeypatch.setitem(INTEGER, "fully_connected", rounded_once)  # as LiteRT's does, see there
    if TFLITE["litert-reference"] in having(graph):
        reference_run = TFLITE["litert-reference"](content)
        for given, integers in zip(reference_run(q), ours(graph, q), strict=True):
            np.testing.assert_array_equal(given, integers)
    assert compile_graph(graph, "ethos-u55-128").cycles > 0


@pytest.mark.parametrize("name", NAMES)
def test_exports_are_near_and_counted(name: str, tmp_path: Path) -> None:
    module, x = make(name)
    shape = SHAPES[name]
    assert export_tflite(module, tmp_path / "a.tflite", shape, [x]).snr_db > 20
    graph = trace(module, shape)
    norms = [path for path, part in module.named_modules() if isinstance(part, nn.BatchNorm2d)]
    # A norm that no layer takes is a depthwise layer on devices; torch does not count it.
    alone = sum(op.macs for op in graph.ops if op.module in norms)
    if not any(isinstance(part, nn.RNNBase) for part in module.modules()):  # which it knows not
        assert graph.macs - alone == products(module, shape)


@pytest.mark.parametrize(
    "name", [n if n in QUICK_ONNX else pytest.param(n, marks=pytest.mark.slow) for n in SHAPES]
)
def test_onnx_files_compute_the_module(name: str, tmp_path: Path) -> None:
    """They are compared in ONNX Runtime before they are written."""
    export_onnx(make(name)[0], tmp_path / "a.onnx", SHAPES[name])


@pytest.mark.parametrize("kernel", [2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_transposed_convolutions_of_every_kind(kernel: int, stride: int) -> None:
    torch.manual_seed(kernel)
    for padding in range(kernel):
        for more in range(stride):
            for groups in (1, 2, 4):
                layer = nn.ConvTranspose2d(4, 8, kernel, stride, padding, more, groups).eval()
                x = torch.randn(2, 4, 5, 6)
                try:
                    wanted = layer(x)
                except RuntimeError:
                    continue  # nothing is left of the picture
                graph = lower(layer, (1, 4, 5, 6))
                (given,) = computed(graph, x)
                torch.testing.assert_close(given.permute(0, 3, 1, 2), wanted)
                # Devices have no groups here: they multiply with the zeros between them.
                assert graph.macs == 5 * 6 * 4 * 8 * kernel**2


def test_multiplications_of_recurrent_layers() -> None:
    """Each step multiplies with the inputs' and, after the first, with the state's weights."""
    for kind, gates in ((nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)):
        graph = trace(kind(5, 6, batch_first=True).eval(), (1, 7, 5))
        assert graph.macs == gates * 6 * (7 * 5 + 6 * 6)


def test_a_recurrent_layer_goes_on_from_a_given_state() -> None:
    torch.manual_seed(0)
    for kind in (nn.LSTM, nn.GRU):
        layer = kind(5, 6, 2, batch_first=True).eval()
        shapes = ((1, 7, 5), (2, 1, 6), (2, 1, 6))[: 2 if kind is nn.GRU else 3]
        inputs = tuple(torch.randn(shape) for shape in shapes)
        module = Call(lambda x, *state, inner: inner(x, state[0] if len(state) < 2 else state))
        module.parts["inner"] = layer
        module.eval()
        wanted = reference(module, inputs)
        for given, right in zip(computed(lower(module, shapes), inputs), wanted, strict=True):
            torch.testing.assert_close(given, right)


def test_what_takes_only_its_shape_from_a_tensor_is_a_constant() -> None:
    torch.manual_seed(0)
    layer = nn.LSTM(4, 3, batch_first=True)

    def run(x: Tensor, layer: Any) -> list[Tensor]:
        start = x.new_zeros(1, len(x), 3)
        filled = x.new_full((4,), 0.5) * x + torch.full_like(x, 2.0)
        filled = filled * x.new_ones(4) + torch.zeros_like(x)
        return [filled, torch.ones_like(x) - x, layer(x, (start, start))[0]]

    module, x = Call(run, layer=layer).eval(), torch.randn(1, 5, 4)
    for given, right in zip(
        computed(lower(module, (1, 5, 4)), x), reference(module, x), strict=True
    ):
        torch.testing.assert_close(given, right)


def test_a_signal_without_a_batch_goes_through_recurrent_layers() -> None:
    layer, x = nn.LSTM(4, 3).eval(), torch.randn(5, 4)
    given = computed(lower(layer, (5, 4)), x)
    for y, right in zip(given, reference(layer, x), strict=True):
        torch.testing.assert_close(y, right)


def test_recurrent_layers_without_a_form_are_named() -> None:
    start = nn.Parameter(torch.randn(1, 1, 3))
    layer = nn.GRU(4, 3, batch_first=True)
    learned = Call(lambda y, inner: inner(y, start.expand(1, len(y), 3))[0], inner=layer).eval()
    with pytest.raises(MismatchError, match=r"aten\.gru\.input with a stored initial state"):
        lower(learned, (1, 5, 4))
    projected = nn.LSTM(4, 3, proj_size=2).eval()
    with pytest.raises(MismatchError, match=r"aten\.lstm\.input with projections"):
        lower(projected, (5, 1, 4))
