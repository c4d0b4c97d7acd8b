"""What the README says about microcontrollers, typed as it stands there."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.cli import main

README = Path(__file__).parents[2] / "README.md"
SECTION = "## On a microcontroller"


def block(language: str) -> str:
    """Return the section's block of code in this language."""
    section = README.read_text(encoding="utf-8").split(SECTION)[1].split("\n## ")[0]
    (code,) = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert isinstance(code, str)
    return code


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a photo."""
    for package in ("ai_edge_litert", "tflite_micro", "ethosu"):
        pytest.importorskip(package, reason="needs the extra 'tflite'")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_a_network_to_three_judges(folder: Path) -> None:
    code = block("python")
    assert code.count("assert ") == 3
    space: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), space)
    assert space["report"].latency_ms < 20  # type: ignore[attr-defined]
    assert (folder / "m5.tflite").stat().st_size < 25_000


def test_the_commands(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    lines = [line.split("#")[0].strip() for line in block("sh").splitlines()]
    assert len(lines) == 6
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "zoo"
        assert main(arguments) == 0, line
        said = capsys.readouterr().out
        if arguments[0] == "show":
            assert "194,688,000 MACs" in said
            assert "705,600 bytes of activations" in said
        if arguments[0] == "estimate":
            assert "194.7 M MACs" in said
    assert np.load("y.npy").shape == (1, 180, 320, 1)
    assert {path.name for path in folder.iterdir()} > {"m5.tflite", "m5.h", "m5.onnx"}
