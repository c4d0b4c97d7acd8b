"""The page in an environment that holds only what `make demo` installs, made as it makes it."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.limits import HANGS_SECONDS

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.slow, pytest.mark.browser]

VIEWS = ["Looks", "Enlarge", "Listen", "Look", "Adapters", "Enlarging", "Text"]
STAMPS = [".venv/.installed-serve", ".venv/.installed-model"]  # what the target `demo` stands on
PROBE = ["-m", "pip", "download", "--quiet", "--no-deps", "groovy"]  # a few kilobytes
MOST_SECONDS = HANGS_SECONDS


@pytest.fixture(scope="module")
def clone(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git tracks, with what `make demo` installs."""
    folder = tmp_path_factory.mktemp("clone")
    probe = [sys.executable, *PROBE, "--dest", str(folder / "probe")]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no package index in reach")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=repository, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository / name, folder / name)
    command = ["make", f"PYTHON={sys.executable}", *STAMPS]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all((folder / stamp).exists() for stamp in STAMPS), done.stdout
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a user who has nothing yet."""
    home = str(tmp_path_factory.mktemp("home"))
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return kept | {"HOME": home, "ZOO_CACHE": f"{home}/zoo"}


@pytest.fixture(scope="module")
def address(clone: Path, environment: dict[str, str]) -> Iterator[str]:
    """The page, served there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [clone / ".venv/bin/zoo", "serve", "--port", str(port)]
    with subprocess.Popen(
        command, cwd=clone, env=environment, text=True, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout
        try:
            assert server.stdout.readline().startswith("The page is at")
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.terminate()


def test_make_installs_it(clone: Path) -> None:
    """A test of its own: installing takes minutes, and a test that takes ten counts as hung."""
    assert (clone / ".venv/bin/zoo").is_file()
    assert not (clone / ".venv/bin/pytest").exists()


def test_every_view_answers(visit: Callable[..., "Page"]) -> None:
    page = visit()
    page.set_default_timeout(MOST_SECONDS * 1000)
    page.wait_for_selector("#looks-view img")
    restyled = page.get_attribute("#looks-view img >> nth=1", "src")
    page.fill("#strength-looks-oil input[type=number]", "1")
    page.press("#strength-looks-oil input[type=number]", "Enter")
    page.wait_for_function(
        "old => { const all = [...document.querySelectorAll('#looks-view img')];"
        " return all.length == 2 &&"
        " all.every(i => i.complete && i.naturalWidth && i.src != old) }",
        arg=restyled,
    )
    assert "untouched" in page.inner_text("#looks-facts")
    page.get_by_role("tab", name="Enlarge", exact=True).click()
    page.wait_for_selector("#whole img")
    first = page.get_attribute("#whole img", "src")
    page.click("#examples img >> nth=2")  # another picture than the first
    page.wait_for_function(
        "first => { const all = [...document.querySelectorAll('#whole img')];"
        " return all.length == 2 &&"
        " all.every(i => i.complete && i.naturalWidth && i.src != first) }",
        arg=first,
    )
    page.get_by_role("tab", name="Adapters").click()
    page.wait_for_selector("#run-picture")
    assert [tab.inner_text() for tab in page.get_by_role("tab").all()] == VIEWS
    for view, mark in (("Enlarging", "picture"), ("Text", "text")):
        page.get_by_role("tab", name=view).click()
        page.click(f"#run-{mark}")
        page.wait_for_selector(f"#facts-{mark} .zoo-facts")
        facts = page.inner_text(f"#facts-{mark}")
        assert " ms" in facts
        assert "unchanged" in facts
        assert "not installed" not in facts
        if mark == "text":
            assert " as long" in facts  # peft takes these adapters
            shown = [page.input_value(f"#{part}-text textarea") for part in ("base", "fused")]
        else:
            images = [page.wait_for_selector(f"#{part}-{mark} img") for part in ("base", "fused")]
            shown = [image.get_attribute("src") for image in images if image]
        assert all(shown)
        assert shown[0] != shown[1]  # pictures are named after their content
        if folder := os.environ.get("ZOO_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/demo-{mark}.png", full_page=True)


def test_the_readmes_commands_run(
    clone: Path,
    environment: dict[str, str],
    first_commands: Callable[[Path], list[list[str]]],
    tmp_path: Path,
) -> None:
    """With `zoo` found as the README says."""
    readme = (clone / "README.md").read_text(encoding="utf-8")
    assert "\n. .venv/bin/activate " in readme
    lines = ["set -ex", ". .venv/bin/activate", f"cd {shlex.quote(str(tmp_path))}"]
    lines += map(shlex.join, first_commands(tmp_path))
    done = subprocess.run(
        ["sh", "-c", "\n".join(lines)], cwd=clone, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_missing_is_named_with_a_line_that_works(
    clone: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """Type what an error says to type, and the command that failed goes through."""
    zoo = [str(clone / ".venv/bin/zoo"), "export", "sesr-m3-x2", "--out", str(tmp_path / "m3.onnx")]
    failed = subprocess.run(zoo, cwd=clone, env=environment, capture_output=True, text=True)
    assert failed.returncode == 1
    line = failed.stderr.partition("; type: ")[2]
    assert line.startswith(".venv/bin/python -m pip install ")
    typed = subprocess.run(["sh", "-c", line], cwd=clone, capture_output=True, text=True)
    assert typed.returncode == 0, typed.stderr
    subprocess.run(zoo, cwd=clone, env=environment, check=True)
