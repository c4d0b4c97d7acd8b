"""A search in a process of its own that is killed, and goes on in two."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_black_box import SMALL, TRIALS, spoken


@pytest.fixture
def words(tmp_path: Path) -> Path:
    folder = tmp_path / "words"
    folder.mkdir()
    spoken(folder)
    return folder


def command(words: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "zoo", "search", "micronet-kws", *SMALL, "--max-macs", "0.2M",
            "--data", str(words), "--steps", "120", "--trials", "3", "--device", "cpu",
            "--set", "train.batch_size=4", "--by", "random", "--out", str(out), *more]  # fmt: skip


def results(out: Path) -> list[Any]:
    lines = (out / TRIALS).read_text().splitlines()
    trials = sorted((json.loads(line) for line in lines), key=lambda trial: trial["number"])
    return [(trial["number"], trial["choice"], trial["scores"]) for trial in trials]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_nothing_is_lost_in_a_kill_and_processes_work_together(words: Path, tmp_path: Path):
    subprocess.run(command(words, tmp_path / "whole"), check=True, capture_output=True)
    out = tmp_path / "killed"
    process = subprocess.Popen(command(words, out), stdout=-3, stderr=-3)
    while not list(out.glob("trials/0001/training/state-*")):
        assert process.poll() is None, "it was done before it could be killed"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(results(out)) == 1
    two = [
        subprocess.Popen(command(words, out, "--resume"), stdout=-3, stderr=-3) for _ in range(2)
    ]
    assert [process.wait() for process in two] == [0, 0]
    assert results(out) == results(tmp_path / "whole")
