"""What a long job says: each step on a terminal, now and then in a log, nothing in a short one."""

import sys

import pytest

import zoo
from zoo.quantization.language import announcer


@pytest.mark.parametrize("terminal", [True, False])
def test_lines_are_rare_where_nobody_looks_on(terminal, monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(announcer.time, "monotonic", lambda: now)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    say = announcer.Announcer()
    for number in range(100):
        now += 1.0
        say(f"step {number}")
    lines = capsys.readouterr().err.splitlines()
    every = 1 if terminal else int(announcer.QUIET_SECONDS)
    assert lines == [f"step {number}" for number in range(100) if (number + 1) % every == 0]


def test_a_job_without_a_terminal_is_not_silent(base, text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(announcer, "QUIET_SECONDS", 0.0)
    options = {"windows": 4, "length": 32, "iterations": 1, "group_size": 1024}
    zoo.compress(
        base, tmp_path / "out", data=text, budget=3, tune_steps=2, tune_length=32, **options
    )
    said = capsys.readouterr().err
    assert "block 3/3  error 0." in said
    assert "budget: layer 21/21" in said
    assert "tuning step 2/2  divergence" in said
