"""The command line as a process: exit codes, interrupts, and no uncalled-for traceback."""

import subprocess
import sys

import pytest

import zoo
from zoo.cli import main


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["fly"],
        ["run", "sesr-m3-x2"],
        ["list", "--colour"],
        ["train", "sesr-m3-x2"],
        ["cache", "burn"],
        ["env", "--threads", "0"],
        ["env", "--threads", "x"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("usage: zoo")


def test_help_and_version_are_0(capsys):
    for words in (["--help"], ["--version"], ["train", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 0
    assert f"zoo {zoo.__version__}" in capsys.readouterr().out


def test_debug_shows_the_error_itself():
    with pytest.raises(zoo.errors.UnknownNameError):
        main(["show", "gone", "--debug"])


def test_an_interrupt_is_130(monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("zoo.cli.upkeep._env", interrupted)
    assert main(["env"]) == 130
    assert capsys.readouterr().err == ""


def test_a_reader_who_leaves_early_causes_no_traceback():
    """`zoo list | head -1`, with the reader gone before the first line."""
    with subprocess.Popen(
        [sys.executable, "-m", "zoo", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_the_module_runs_and_fails_with_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "zoo", "show", "sesr-m5-x3"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("zoo: unknown recipe 'sesr-m5-x3'; did you mean")
    assert done.stderr.count("\n") == 1
