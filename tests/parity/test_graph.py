"""The graph IR against the paper's counts and against PyTorch's own counter."""

import tomllib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from zoo.errors import MismatchError
from zoo.graph.fuse import fuse
from zoo.graph.ir import Graph
from zoo.graph.lower import lower
from zoo.graph.trace import trace
from zoo.models.sesr import SESR
from zoo.registry import find
from zoo.runtime.floating import FloatNetwork

GOLDEN = tomllib.loads((Path(__file__).parents[1] / "golden/sesr.toml").read_text())


def on_meta(name: str) -> SESR:
    """Build a recipe's network without allocating anything."""
    with torch.device("meta"):
        return SESR(**find(name).args).eval()


def counted(module: nn.Module, shape: tuple[int, ...]) -> int:
    """Count MACs with torch.utils.flop_counter."""
    device = next(module.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(shape, device=device))
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_sesr_has_the_papers_parameters_and_macs(name: str) -> None:
    recipe, golden = find(name), GOLDEN[name]
    network = on_meta(name)
    graph = trace(network, recipe.input_shape)
    channels, blocks, scale = (recipe.args[key] for key in ("channels", "blocks", "scale"))
    assert graph.parameters == {
        "weights": golden["weights"],
        "biases": channels * (blocks + 1) + scale**2,
        "slopes": channels * blocks * (recipe.args.get("activation") != "relu"),
        "constants": 0,
    }
    assert sum(graph.parameters.values()) == sum(p.numel() for p in network.parameters())
    pixels = recipe.input_shape[2] * recipe.input_shape[3]
    assert graph.macs == golden["weights"] * pixels
    assert graph.macs / 1e9 == pytest.approx(golden["gmacs_to_720p"], abs=0.00501)
    assert graph.macs == counted(network, recipe.input_shape)


def test_ops_carry_their_module_and_parameters_their_source() -> None:
    graph = trace(on_meta("sesr-m3-x2"), (1, 1, 8, 8))
    convolutions = [op for op in graph.ops if op.kind == "conv2d"]
    assert [op.module for op in convolutions] == ["first", "body.0", "body.1", "body.2", "last"]
    weight = graph.tensors[convolutions[1].inputs[1]]
    assert (weight.source, weight.kind, weight.shape) == ("body.0.weight", "weight", (16, 16, 3, 3))
    assert weight.bytes("int8") == 2304
    bias = graph.tensors[convolutions[1].inputs[2]]
    assert (bias.kind, bias.bytes("int8"), bias.bytes("float32")) == ("bias", 64, 64)
    assert [op.kind for op in graph.ops if op.module == "act.2"] == ["prelu"]
    sources = {t.source for t in graph.tensors.values() if t.is_parameter}
    assert sources == set(on_meta("sesr-m3-x2").state_dict())


def test_meta_and_real_modules_give_the_same_graph() -> None:
    real = SESR(**find("sesr-m3-x4").args).eval()
    assert trace(real, (2, 1, 9, 7)) == trace(on_meta("sesr-m3-x4"), (2, 1, 9, 7))


def test_the_input_lives_until_the_last_residual() -> None:
    graph = trace(on_meta("sesr-m3-x2"), (1, 1, 8, 8))
    last_add = max(i for i, op in enumerate(graph.ops) if op.kind == "add")
    assert graph.lifetimes[graph.inputs[0]] == (0, last_add)
    assert graph.lifetimes[graph.outputs[0]][1] == len(graph.ops) - 1


class Mixed(nn.Module):
    """One of most operators, with an in-place activation and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.relu = nn.ReLU6(inplace=True)
        self.depthwise = nn.Conv2d(8, 8, (4, 3), padding="same", groups=8)
        self.pool = nn.MaxPool2d(2)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout()
        self.head = nn.Linear(16, 4)
        self.register_buffer("gain", torch.ones(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, 32, 32) to (N, 4)."""
        x = self.relu(self.conv(x))
        x = F.pad(x + self.depthwise(x) * self.gain, (1, 1, 1, 1))
        x = self.pool(x)
        x = torch.cat([self.average(x), x.mean((2, 3), keepdim=True)], 1)
        return F.softmax(self.head(self.dropout(x.flatten(1)) / 2), dim=-1)


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # torch, for the even kernel
def test_other_operators() -> None:
    module = Mixed().eval()
    graph = trace(module, (2, 3, 32, 32))
    kinds = " ".join(op.kind for op in graph.ops)
    assert kinds == (
        "conv2d relu6 depthwise_conv2d mul add pad max_pool2d avg_pool2d mean concat reshape mul "
        "fully_connected softmax"
    )
    depthwise = graph.ops[2]
    assert depthwise.attributes["padding"] == (1, 2, 1, 1)  # top, bottom, left, right
    assert depthwise.macs == 2 * 8 * 16 * 16 * 12
    assert graph.macs == counted(module, (2, 3, 32, 32))
    assert graph.parameters["constants"] == 8


def test_fusing_moves_activations_into_their_producers() -> None:
    graph = trace(on_meta("sesr-m3-x2"), (1, 1, 8, 8))
    fused = fuse(graph, frozenset({"clamp", "prelu"}))
    kinds = " ".join(op.kind for op in fused.ops)
    assert kinds == "add conv2d conv2d conv2d conv2d add conv2d add depth_to_space"
    assert [op.attributes.get("activation") for op in fused.ops[2:5]] == ["prelu"] * 3
    assert fused.ops[-2].attributes["activation_limits"] == (0, 1)  # moved past depth-to-space
    assert (fused.macs, fused.parameters) == (graph.macs, graph.parameters)
    assert fused.outputs == graph.outputs
    consistent(fused)


def test_a_value_that_is_read_twice_is_not_fused_away() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return F.relu(y) + y

    graph = trace(Twice().eval(), (1, 1, 4, 4))
    assert fuse(graph, frozenset({"relu"})) == graph


def consistent(graph: Graph) -> None:
    """Check that ops read only what exists, and that no tensor is left over."""
    known = set(graph.inputs) | {n for n, t in graph.tensors.items() if t.is_parameter}
    for op in graph.ops:
        assert set(op.inputs) <= known
        known |= set(op.outputs)
    assert known == set(graph.tensors)


def test_batch_norms_are_folded() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    graph = trace(module.eval(), (1, 3, 8, 8))
    assert [op.kind for op in graph.ops] == ["conv2d", "relu"]
    assert graph.parameters == {"weights": 12, "biases": 4, "slopes": 0, "constants": 0}


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (
            nn.Sequential(nn.Upsample(scale_factor=1.5)),
            ("upsample", "at 0", "not a whole multiple"),
        ),
        (nn.Conv2d(4, 4, 1), ("Conv2d", "(1, 3, 8, 8)", "4 channels")),
    ],
)
def test_what_cannot_be_mapped_is_named(module: nn.Module, words: tuple[str, ...]) -> None:
    with pytest.raises(MismatchError) as caught:
        trace(module.eval(), (1, 3, 8, 8))
    for word in words:
        assert word in str(caught.value)


class Placed(nn.Module):
    """Brings a buffer to where its input is, as models do that may be moved."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)
        self.register_buffer("skip", torch.eye(3).reshape(3, 3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        return self.layer(torch.nn.functional.conv2d(x.to(x), self.skip.to(x)))


def test_assertions_of_the_exporter_are_not_operators() -> None:
    """`.to` leaves one about its tensor's type, which computes nothing."""
    graph = trace(Placed().eval(), (1, 3, 8, 8), values=True)
    assert [op.kind for op in graph.ops] == ["conv2d", "conv2d"]
    sources = [graph.tensors[op.inputs[1]].source for op in graph.ops]
    assert sources == ["skip", "layer.weight"]


def test_a_change_of_type_is_an_operator_that_devices_lack() -> None:
    class Halved(Placed):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.to(torch.float16).to(torch.float32))

    with pytest.raises(MismatchError, match=r"aten\.to at the top level has no mapping"):
        trace(Halved().eval(), (1, 3, 8, 8))


def test_training_mode_is_refused() -> None:
    with pytest.raises(MismatchError, match=r"call \.eval\(\)"):
        trace(nn.Conv2d(1, 1, 1), (1, 1, 4, 4))


class Padded(nn.Module):
    """Zeros around an image, as an operator of its own, before two convolutions."""

    def __init__(self, around: tuple[int, ...], value: float = 0.0, *, shown: bool = False) -> None:
        super().__init__()
        self.around, self.value, self.shown = around, value, shown
        channels = 3 + sum(around[4:6])
        self.first = nn.Conv2d(channels, 4, 3, stride=2)
        self.second = nn.Conv2d(channels, 4, 3, stride=2, padding=(1, 0))

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, self.around, value=self.value)
        y = self.first(x).mean((2, 3)) + self.second(x).mean((2, 3))
        return y + x.mean((1, 2, 3)) if self.shown else y


@pytest.mark.parametrize(
    ("around", "value", "shown", "absorbed"),
    [
        ((0, 1, 0, 1), 0.0, False, [(0, 1, 0, 1), (1, 2, 0, 1)]),
        ((2, 1), 0.0, False, [(0, 0, 2, 1), (1, 1, 2, 1)]),
        ((0, 1, 0, 1), 0.5, False, None),  # a convolution pads with zeros
        ((0, 1, 0, 1), 0.0, True, None),  # something else reads the padded image
        ((0, 1, 0, 1, 1, 0), 0.0, False, None),  # a channel more
        ((-1, 1, 0, 1), 0.0, False, [(0, 1, 0, 1), (1, 2, 0, 1)]),  # a column is cut off before
    ],
)
def test_a_convolution_takes_over_the_zeros_before_it(
    around: tuple[int, ...],
    value: float,
    shown: bool,
    absorbed: list[tuple[int, ...]] | None,
) -> None:
    torch.manual_seed(0)
    network, x = Padded(around, value, shown=shown).eval(), torch.randn(1, 3, 8, 8)
    graph = trace(network, tuple(x.shape))
    assert ("pad" in [op.kind for op in graph.ops]) == (absorbed is None)
    paddings = [op.attributes["padding"] for op in graph.ops if op.kind == "conv2d"]
    assert paddings == (absorbed or [(0, 0, 0, 0), (1, 1, 0, 0)])
    if absorbed is not None:
        expected = network(x).detach()
        found = FloatNetwork(lower(network, tuple(x.shape)))(x.permute(0, 2, 3, 1))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
