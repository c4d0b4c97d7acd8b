"""A compression method of an installed package: one module, one entry point, no file of ours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

METHOD = '''
from dataclasses import dataclass
from typing import Literal
from zoo.registry.compressed import Compressed

SUMMARY = "weights rounded to multiples of a power of two"
PAPER = "1702.03044"
TAKES = "network"
DATA = ""
TRAINS = False
PRESETS = {"coarse": {"exponent": -3}}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options.

    Attributes:
        exponent: of the power of two that weights are multiples of.
        parts: "all" tensors, or only those with more than one dimension ("matrices").

    """

    exponent: int = -6
    parts: Literal["all", "matrices"] = "all"
    needs_data = False

    @property
    def label(self):
        return f"steps-{-self.exponent}"

    @property
    def summary(self):
        return f"weights in steps of 2^{self.exponent}"


def compress(source, out, options, *, data, test, resume, device):
    step = 2.0**options.exponent
    tensors = source.state_dict()
    for name, value in tensors.items():
        if options.parts == "all" or value.ndim > 1:
            tensors[name] = (value / step).round() * step
    return Compressed(metrics={"compression": {"step": step}}, tensors=tensors)
'''


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder that stands on the path, with the package in it."""
    package = tmp_path / "site" / "acme"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "steps.py").write_text(METHOD)
    info = tmp_path / "site" / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[zoo.compression.methods]\nsteps = acme.steps\n")
    return tmp_path / "site"


def run(words: str, site: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Type a command where the package is installed."""
    root = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "-m", "zoo", *words.split()],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(root)])},
        cwd=folder,
        capture_output=True,
        text=True,
    )


def test_it_is_a_method_like_ours(installed: Path, tmp_path: Path) -> None:
    listed = run("compress --method steps --help", installed, tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "steps     weights rounded to multiples of a power of two" in listed.stdout
    assert "--parts all|matrices" in listed.stdout
    assert "presets of steps: coarse" in listed.stdout
    words = "compress sesr-m3-x2.bsds --method steps-coarse --parts matrices --out small"
    made = run(words, installed, tmp_path)
    assert made.returncode == 0, made.stderr
    facts = json.loads((tmp_path / "small" / "config.json").read_text())
    assert facts["recipe"]["name"] == "sesr-m3-x2-steps-3"
    assert facts["recipe"]["compress"] == {
        "base": "sesr-m3-x2.bsds",
        "method": "steps",
        "options": {"exponent": -3, "parts": "matrices"},
    }
    card = (tmp_path / "small" / "README.md").read_text()
    typed = "--method steps --exponent=-3 --parts matrices"
    assert f"zoo compress sesr-m3-x2.bsds {typed} --out sesr-m3-x2-steps-3" in card
    wrong = run("compress sesr-m3-x2 --out no --method steps --set exponen=2", installed, tmp_path)
    assert wrong.returncode == 1
    assert "unknown option 'exponen'; did you mean exponent" in wrong.stderr
    # Without the package, what it made still loads.
    shown = run("show ./small", tmp_path, tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "compress base sesr-m3-x2.bsds, method steps" in shown.stdout
    again = run("card ./small", tmp_path, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "--set=exponent=-3 '--set=parts=\"matrices\"'" in again.stdout
