"""The README's round trip, exactly as typed: train, push, pull; no account and no network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def transcript(repository):
    """Return the README's commands and what it says they print."""
    text = (repository / "README.md").read_text(encoding="utf-8")
    found = re.search(r"```sh\n(zoo train [^`]*&&[^`]*)```[^`]*```text\n([^`]*)```", text)
    assert found, "the README has no round trip"
    return found[1], found[2]


def test_the_round_trip_of_the_readme(transcript, tmp_path):
    commands, said = transcript
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(6):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
        coarse.resize((240, 180), Image.Resampling.BICUBIC).save(
            tmp_path / "photos" / f"{number}.png"
        )
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "ZOO_CACHE": str(tmp_path / "cache"),
    }
    environment.pop("HF_TOKEN", None)
    done = subprocess.run(
        ["sh", "-c", commands], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pattern = "[^\n]*?".join(map(re.escape, said.split("…")))  # … stands for what differs
    assert re.fullmatch(pattern, done.stdout), (said, done.stdout)
    pushed, pulled = re.findall(r"commit[ /]([0-9a-f]{40})", done.stdout)
    assert pushed == pulled
    [folder] = (tmp_path / "cache" / "hub" / "local--me--sesr-m3").glob(pulled)
    weights = (folder / "model.safetensors").read_bytes()
    assert weights == (tmp_path / "runs" / "m3" / "model.safetensors").read_bytes()
