"""The README's transcript of a language model, typed as it stands there, on a tiny stand-in."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("dulwich")
pytestmark = pytest.mark.slow

PORT = "8123"


def blocks(repository: Path) -> tuple[list[str], str]:
    """Return the transcript's commands, and the program that it runs."""
    text = (repository / "README.md").read_text(encoding="utf-8")
    section = text.split("## Language models")[1].split("\n## ")[0]
    program, transcript = re.findall(r"```(?:python|console)\n(.*?)```", section, re.DOTALL)[:2]
    commands = [line[2:] for line in transcript.splitlines() if line.startswith("$ ")]
    return commands, program


def wait_for(port: str) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the hub does not answer")


def surroundings(repository, home):
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(repository),
        "ZOO_CACHE": str(home / "cache"),
        "HF_HOME": str(home / "hf"),
        "HF_HUB_OFFLINE": "0",
    }


def test_every_command_of_the_transcript_works(
    repository, tiny_model, byte_tokenizer, text, tmp_path
):
    commands, program = blocks(repository)
    verbs = [command.split()[1] for command in commands if command.startswith("zoo")]
    assert verbs == ["import", "compress", "evaluate", "push", "hub"]
    model = tiny_model(max_position_embeddings=1024)
    model.save_pretrained(tmp_path / "smollm2")  # what `zoo import` gives
    byte_tokenizer.save_pretrained(tmp_path / "smollm2")
    for name in ("valid.txt", "test.txt"):
        (tmp_path / name).write_text(text.read_text())
    (tmp_path / "generate.py").write_text(program)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = surroundings(repository, tmp_path)
    printed, server = {}, None
    try:
        for command in commands[1:]:
            typed = command.replace(PORT, port)
            if typed.endswith("&"):
                server = subprocess.Popen(
                    typed.removesuffix("&").split(),
                    cwd=tmp_path,
                    env=environment,
                    stdout=subprocess.DEVNULL,
                )
                wait_for(port)
                continue
            answer = subprocess.run(
                ["bash", "-c", typed],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert answer.returncode == 0, f"{typed}\n{answer.stderr}"
            printed[command.split()[1]] = answer.stdout
    finally:
        if server is not None:
            server.terminate()
            server.wait()
    assert "bits per packed weight" in printed["compress"]
    assert printed["evaluate"].startswith("perplexity: ")
    assert printed["push"].startswith("local:/me/")
    assert printed["python"].startswith("The capital of France is")
