"""The name of an exported file says its format, or is refused before anything is resolved."""

import pytest
from torch import nn

import zoo
from zoo.cli import main
from zoo.errors import MismatchError
from zoo.verbs.exporting import FORMATS, format_of

SHAPE = (1, 1, 8, 8)


@pytest.fixture(scope="module")
def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()).eval()


@pytest.mark.parametrize(
    ("name", "begin"), [("a.tflite", b"TFL3"), ("a.TFLITE", b"TFL3"), ("a.c", b"unsigned char")]
)
def test_the_suffix_is_the_format(network, tmp_path, name, begin):
    file = zoo.export(network, tmp_path / name, input_shape=SHAPE)
    data = file.path.read_bytes()
    assert begin in data[:400]


def test_onnx_is_the_default(network, tmp_path):
    onnx = pytest.importorskip("onnx")
    for name in ("a.onnx", "a"):
        file = zoo.export(network, tmp_path / name, input_shape=SHAPE)
        onnx.checker.check_model(onnx.load(file.path))


@pytest.mark.parametrize("format", [None, *FORMATS])
@pytest.mark.parametrize("name", ["x.foo", "x.pt", "model.v2", "x.tflite.bak"])
def test_other_suffixes_name_the_formats(network, tmp_path, format, name):
    message = r"ends in \.\w+, and formats are: onnx \(\.onnx\), tflite \(\.tflite\), c \(\.c\)"
    with pytest.raises(MismatchError, match=message):
        zoo.export(network, tmp_path / name, format=format, input_shape=SHAPE)
    assert list(tmp_path.iterdir()) == []


def test_a_format_under_anothers_name(network, tmp_path):
    with pytest.raises(MismatchError, match=r"would be a tflite file .*name it x\.tflite, or"):
        zoo.export(network, tmp_path / "x.onnx", format="tflite", input_shape=SHAPE)
    for format, suffixes in FORMATS.items():
        for suffix in suffixes:
            assert format_of(tmp_path / f"x{suffix}", None) == format


def test_the_command_says_so_at_once(tmp_path, capsys):
    words = ["export", "no-such-network", "--format", "tflite", "--out", str(tmp_path / "x.foo")]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert said.startswith("zoo: x.foo ends in .foo, and formats are: onnx")
    assert said.count("\n") == 1


def test_the_command_takes_the_format_from_the_name(tmp_path, capsys):
    out = tmp_path / "m3.tflite"
    assert main(["export", "sesr-m3-x2", "--shape", "1,1,16,16", "--out", str(out)]) == 0
    assert b"TFL3" in out.read_bytes()[:8]
