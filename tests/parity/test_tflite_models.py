"""Published int8 networks, read from their files: golden vectors, real runtimes, accuracies."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from zoo.cost.memory import plan
from zoo.deploy.tflite_read import read_tflite
from zoo.runtime.integer import IntegerNetwork

pytestmark = pytest.mark.data

FILES = {
    "kws_m": "micronet_kws_m_int8",
    "ad_m": "micronet_ad_m_int8",
    "vww4": "micronet_vww4_128_128_INT8",
    "kws": "mlperf_kws_int8",
    "vww": "mlperf_vww_96_int8",
    "ad": "mlperf_ad01_int8",
    "ic": "mlperf_ic_resnet8_int8",
}
# From the printed layer lists (MicroNets) and from Vela (AD); Vela counts pools and softmax too.
MACS = {"kws_m": 15_556_352, "ad_m": 62_346_720, "vww4": 18_828_800, "ad": 264_192}


def network(data: Path, name: str) -> IntegerNetwork:
    return IntegerNetwork(read_tflite(data / "tflite" / f"{FILES[name]}.tflite"))


def quantized(net: IntegerNetwork, real: NDArray[np.float64]) -> torch.Tensor:
    meaning = net.graph.tensors[net.graph.inputs[0]].quantization
    assert meaning is not None
    integers = np.round(real / meaning.scale) + meaning.zero_point
    return torch.from_numpy(np.clip(integers, -128, 127).astype(np.int8))


@pytest.mark.parametrize("name", ["kws_m", "ad_m", "vww4"])
def test_golden_vectors_to_the_bit(shared_data: Path, name: str) -> None:
    net = network(shared_data, name)
    golden = shared_data / "tflite" / "golden"
    given = torch.from_numpy(np.load(golden / f"micronet_{name}_input.npy"))
    wanted = np.load(golden / f"micronet_{name}_output.npy")
    output = net(given.reshape(1, *net.graph.input_shape[1:]))
    np.testing.assert_array_equal(output.numpy().reshape(wanted.shape), wanted)


@pytest.mark.parametrize("name", FILES)
def test_every_integer_equals_tflite_micro(shared_data: Path, name: str) -> None:
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    file = shared_data / "tflite" / f"{FILES[name]}.tflite"
    net = network(shared_data, name)
    assert net.batched
    assert net.graph.macs == MACS.get(name, net.graph.macs)
    generator = torch.Generator().manual_seed(0)
    shape = (8, *net.graph.input_shape[1:])
    x = torch.randint(-128, 128, shape, generator=generator, dtype=torch.int8)
    interpreter = runtime.Interpreter.from_file(str(file))
    for sample, output in zip(x, net(x), strict=True):
        interpreter.set_input(sample[None].numpy(), 0)
        interpreter.invoke()
        np.testing.assert_array_equal(output[None].numpy(), interpreter.get_output(0))


def accuracy(net: IntegerNetwork, x: torch.Tensor, labels: NDArray[np.int64]) -> float:
    return 100 * float((net(x).flatten(1).argmax(1).numpy() == labels).mean())


# Per cent, from the models' SOURCES.md; measured there with another runtime.
@pytest.mark.parametrize(("name", "published"), [("kws_m", 91.8), ("kws", 90.2)])
def test_keyword_accuracy(shared_data: Path, name: str, published: float) -> None:
    data = np.load(shared_data / "kws01" / "kws01_mfcc_int8.npz")
    real = (data["x"].astype(np.float64) - 83) * 0.5847029
    net = network(shared_data, name)
    assert accuracy(net, quantized(net, real), data["y"]) == pytest.approx(published, abs=0.3)


def test_image_accuracy(shared_data: Path) -> None:
    data = np.load(shared_data / "cifar10" / "cifar10_test500_lossless.npz")
    x = torch.from_numpy((data["x"].astype(np.int64) - 128).astype(np.int8))
    net = network(shared_data, "ic")
    assert accuracy(net, x, data["y"]) == pytest.approx(88.0, abs=0.3)


@pytest.mark.parametrize(("name", "published"), [("vww", 85.3), ("vww4", 80.7)])
def test_person_accuracy(shared_data: Path, name: str, published: float) -> None:
    rows = list(csv.DictReader((shared_data / "vww" / "labels.csv").read_text().splitlines()))
    labels = np.array([int(row["person"]) for row in rows])
    pictures = []
    for row in rows:
        with Image.open(shared_data / "vww" / "images" / row["file"]) as picture:
            if name == "vww4":
                grey = picture.convert("L").resize((128, 128), Image.Resampling.BICUBIC)
                pictures.append(np.asarray(grey)[..., None])
            else:
                pictures.append(np.asarray(picture))
    pixels = np.stack(pictures)
    net = network(shared_data, name)
    assert accuracy(net, quantized(net, pixels / 255), labels) == pytest.approx(published, abs=0.3)


# What TFLite Micro's allocator reports as the arena's head (reference/cost.md, section 5).
@pytest.mark.parametrize(
    ("name", "head"), [("kws", 16_000), ("ic", 49_152), ("vww", 73_728), ("ad", 768)]
)
def test_memory_plan_is_tflite_micros_to_the_byte(
    shared_data: Path, name: str, head: int, arena_head: Callable[[bytes], int]
) -> None:
    graph = network(shared_data, name).graph
    assert plan(graph, "int8", in_place=False).arena_bytes == head
    assert arena_head((shared_data / "tflite" / f"{FILES[name]}.tflite").read_bytes()) == head
