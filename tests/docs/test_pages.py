"""Every transcript of the README and the guide, typed as it stands there."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState

from tests.docs import transcript
from tests.docs.transcript import ROOT, Step
from zoo.cli import main

PAGES = {path.relative_to(ROOT).as_posix(): path for path in transcript.pages()}
STEPS = {name: transcript.steps(path.read_text(encoding="utf-8")) for name, path in PAGES.items()}
# Names of the clone that commands of the guide may read; all else that they make is new.
CLONE = ("README.md", "adapters", "benchmarks", "cards", "constraints.txt", "docs", "spaces",
         "tests", "zoo")  # fmt: skip


class Reader:
    """Someone who types a page's blocks in a fresh clone."""

    def __init__(self, folder: Path) -> None:
        """Make the clone in an empty folder."""
        self.folder = folder / "edge-zoo"
        self.folder.mkdir()
        for name in CLONE:
            (self.folder / name).symlink_to(ROOT / name)
        bin = Path(sys.executable).parent
        self.environment = os.environ | {
            "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
            "ZOO_CACHE": str(folder / "cache"),
            "HF_HOME": str(folder / "huggingface"),
            "HF_HUB_OFFLINE": "0",
            "HOME": str(folder),
        }
        self.names: dict[str, object] = {"__name__": "__main__"}
        self.servers: list[subprocess.Popen[str]] = []

    def play(self, step: Step, printed: Callable[[], tuple[str, str]]) -> str:
        """Do what a block says; return what it printed.

        Of `printed` each call returns what was printed since the last, and what of it as errors.
        """
        if step.file:
            path = self.folder / step.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.code, encoding="utf-8")
            return ""
        if step.language == "python":
            exec(compile(step.code, "the page", "exec"), self.names)
            return printed()[0]
        assert step.language == "sh", f"line {step.line}: what is done with {step.language!r}?"
        if step.port is not None:
            self._serve(step)
            return ""
        if (commands := plain(step.code)) is None:
            return self._shell(step, step.code)
        said = ""
        for command in commands:
            left = main(command.words)
            assert command.may_fail or left == 0, (
                f"line {step.line}: zoo {shlex.join(command.words)}"
            )
            out, errors = printed()
            out += errors if command.errors else ""
            said += self._shell(step, command.then, out) if command.then else out
        return said

    def _shell(self, step: Step, code: str, given: str = "") -> str:
        done = subprocess.run(
            ["bash", "-e", "-c", code], cwd=self.folder, env=self.environment, input=given,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"line {step.line}:\n{code}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _serve(self, step: Step) -> None:
        command = ["bash", "-c", f"exec {step.code.partition('#')[0].strip()}"]
        server = subprocess.Popen(
            command, cwd=self.folder, env=self.environment, text=True, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.servers.append(server)
        for _ in range(1200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", step.port)) == 0:
                    return
            assert server.poll() is None, f"line {step.line}: the server has ended"
            time.sleep(0.1)
        raise AssertionError(f"line {step.line}: nothing answers on port {step.port}")

    def leave(self) -> None:
        """End what still runs."""
        for server in self.servers:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)
        for state in (AcceleratorState, GradientState, PartialState):
            state._reset_state()


@dataclass(frozen=True)
class Command:
    """A line that says `zoo` with some words, and what a shell does with what that prints.

    Attributes:
        errors: printed too (`2>&1`).
        may_fail: is it allowed to (`|| true`, or what reads it decides)?
        then: the command that reads what was printed; empty for none.

    """

    words: list[str]
    errors: bool = False
    may_fail: bool = False
    then: str = ""


def plain(code: str) -> list[Command] | None:
    """Return the commands of a block if each is `zoo`, and a shell only reads what one prints.

    Those run in this process: to start another and to import torch takes seconds, each time.
    """
    commands = []
    for line in code.replace("\\\n", " ").splitlines():
        found = re.fullmatch(
            r"zoo (?P<words>(?:'[^']*'|[^|&;<>$`*?~(){}'#])*)(?:#.*)?"
            r"(?P<errors>2>&1 ?)?(?:\|\| (?P<may_fail>true)|\| (?P<then>[^'|]*(?:'[^']*')?))?",
            line,
        )
        if found is None:
            return None
        commands.append(
            Command(
                shlex.split(found["words"]),
                found["errors"] is not None,
                found["may_fail"] is not None or found["then"] is not None,
                found["then"] or "",
            )
        )
    return commands


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    someone = Reader(tmp_path)
    monkeypatch.chdir(someone.folder)
    for name in ("ZOO_CACHE", "HF_HOME"):
        monkeypatch.setenv(name, someone.environment[name])
    yield someone
    someone.leave()


def play(reader: Reader, steps: list[Step], capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    for step in steps:
        said = reader.play(step, capsys.readouterr)
        if step.said is not None:
            difference = transcript.differs(step.said, said)
            assert difference is None, f"line {step.line}:\n{step.code}\n{difference}"


@pytest.mark.parametrize(
    "page", [name for name in PAGES if any(not s.not_run and not s.slow for s in STEPS[name])]
)
def test_what_a_page_shows_is_what_happens(
    page: str, reader: Reader, capsys: pytest.CaptureFixture[str]
) -> None:
    play(reader, [s for s in STEPS[page] if not s.not_run and not s.slow], capsys)


@pytest.mark.slow
@pytest.mark.parametrize("page", [name for name in PAGES if any(s.slow for s in STEPS[name])])
def test_so_do_the_parts_that_take_long(
    page: str, reader: Reader, capsys: pytest.CaptureFixture[str]
) -> None:
    play(reader, [s for s in STEPS[page] if not s.not_run], capsys)


def test_outputs_are_compared() -> None:
    assert transcript.differs("a … c\n3 of 5.00 dB\n", "a b c\n3 of 5.04 dB\n") is None
    assert transcript.differs("3 of 5.00\n", "4 of 5.00\n") is not None
    assert transcript.differs("3 of 5.00\n", "3 of 5.20\n") is not None
    assert transcript.differs("one\n…\nlast\n", "one\ntwo\nthree\nlast\n") is None
    assert transcript.differs("one\nlast\n", "one\ntwo\nlast\n") is not None
    assert transcript.differs("1,000 bytes\n", "1,001 bytes\n") is not None


def test_only_commands_that_need_no_shell_are_played_in_this_process() -> None:
    typed = "zoo list 'a*'  # all; of them\nzoo train a \\\n  --set b=1\n"
    assert plain(typed) == [Command(["list", "a*"]), Command(["train", "a", "--set", "b=1"])]
    assert plain("zoo a | tail -n 4") == [Command(["a"], may_fail=True, then="tail -n 4")]
    assert plain("zoo a 2>&1 || true") == [Command(["a"], errors=True, may_fail=True)]
    assert plain("zoo a --b 2>&1 | grep 'c | d'") == [
        Command(["a", "--b"], True, True, "grep 'c | d'")
    ]
    for shell in ("zoo a > b", "ls", "zoo list a*", "cd a\nzoo b", "zoo $A", "zoo a | b | c"):
        assert plain(shell) is None


def test_a_page_is_read_as_it_is_meant() -> None:
    page = (
        "x\n```sh\nls\n```\n\n```text\na\n```\nwords\n<!-- not run: waits -->\n```sh\nwait\n```\n"
        "<!-- file: a.toml -->\n```toml\nb = 1\n```\n"
        "<!-- slow, background: 8000 -->\n```sh\nserve\n```\n"
    )
    listed, waits, file, server = transcript.steps(page)
    assert (server.slow, server.port, waits.slow) == (True, 8000, False)
    assert (listed.language, listed.code, listed.said, listed.line) == ("sh", "ls\n", "a\n", 2)
    assert (waits.not_run, file.file, file.code) == ("waits", "a.toml", "b = 1\n")
