"""The command line as a process: exit codes, interrupts, and no uncalled-for traceback."""

import os
import subprocess
import sys

import pytest

import zoo
from zoo.cli import main


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "zoo: the following arguments are required: COMMAND"),
        ("trian x", "zoo: unknown command 'trian'; did you mean train?"),
        ("--threads 1 list", "zoo: --threads stands after the command"),
        ("run sesr-m3-x2", "zoo run: the following arguments are required: source"),
        ("run sesr-m3-x2 a.png --devise cpu", "zoo run: unknown flag --devise; did you mean --dev"),
        ("list a b", "zoo list: 'b' is one word too many"),
        ("cache burn", "zoo cache: unknown action 'burn'; known: list, prune"),
        ("env --threads 0", "zoo env: argument --threads: '0' is not a positive whole number"),
        ("hub serv", "zoo hub: unknown command 'serv'; did you mean serve?"),
        ("hub token list --jsn", "zoo hub token list: unknown flag --jsn; did you mean --json?"),
        ("compress a --out b --bitz 3", "(type: zoo compress --method gptvq --help)"),
    ],
)
def test_wrong_usage_is_2_and_one_line(words, says, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert says in printed.err
    assert "--help" in printed.err
    assert printed.err.count("\n") == 1


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
    monkeypatch.setattr("zoo.cli.training._train", interrupted)
    assert main(["train", "sesr-m3-x2", "--data", "my data", "--out", "runs/a"]) == 130
    again = "zoo train sesr-m3-x2 --data 'my data' --out runs/a --resume\n"
    assert capsys.readouterr().err.endswith(again)


def test_what_the_system_refuses_is_told_without_its_number(monkeypatch, capsys):
    def refused(*args):
        raise PermissionError(13, "Permission denied", "/root/a.png")

    monkeypatch.setattr("zoo.cli.upkeep._env", refused)
    assert main(["env"]) == 1
    assert capsys.readouterr().err == "zoo: /root/a.png: Permission denied\n"


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


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("zoo exp", ["export"]),
        ("zoo load", []),
        ("zoo run sesr-m3", ["sesr-m3-x2", "sesr-m3-x4"]),
        ("zoo adapter info looks-o", ["looks-oil"]),
        ("zoo estimate sesr-m3-x2 --target ethos-u55-2", ["ethos-u55-256"]),
        ("zoo compress x --method rtn --bi", ["--bits"]),
    ],
)
def test_a_shell_is_offered_what_fits(line, offers, tmp_path):
    answer = tmp_path / "answer"
    asked = {
        "_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "_ARGCOMPLETE_IFS": "\n",
    }  # fmt: skip
    result = subprocess.run([sys.executable, "-m", "zoo"], env=os.environ | asked, check=False)
    assert result.returncode == 0
    assert sorted(answer.read_text().split()) == offers


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell, capsys):
    assert main(["completion", shell]) == 0
    assert "zoo" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["run", "sesr-m5-x2", "gone.png"],
        ["evaluate", "sesr-m5-x2", "--data", "gone"],
        ["show", "SESR-M5-x2"],
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_refused_before_torch_is_imported(words):
    code = (
        "import sys; from zoo.cli import main; code = main(sys.argv[1:]); "
        "print('torch' in sys.modules); sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (1, "False\n")
    assert result.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_table_fits_the_terminal():
    import pty

    reader, terminal = pty.openpty()
    subprocess.run(
        [sys.executable, "-m", "zoo", "list", "sesr-*"], stdout=terminal, check=True,
        env=os.environ | {"COLUMNS": "50"},
    )  # fmt: skip
    os.close(terminal)
    lines = os.read(reader, 1 << 16).decode().splitlines()
    os.close(reader)
    assert len(lines) > 10
    assert max(map(len, lines)) == 50
    assert lines[-1].endswith("…")
