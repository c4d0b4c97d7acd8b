"""The Space's folder on its own: an environment of its requirements alone, and programs that call.

As a hub does it: Gradio comes from the README's `sdk_version`, the rest from requirements.txt.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.limits import HANGS_SECONDS
from zoo.page import hosting

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "space"
    hosting.assemble(folder)
    return folder


@pytest.fixture(scope="module")
def python(space: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds what the Space asks for."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    made = folder / "bin" / "python"
    pip = [str(made), "-m", "pip", "install", "--quiet"]
    probe = [*pip[:3], "download", "--quiet", "--no-deps", "groovy", "--dest", str(folder)]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no package index in reach")
    front = (space / "README.md").read_text(encoding="utf-8")
    gradio = re.search(r"(?m)^sdk_version: (.+)$", front)
    assert gradio
    lines = (space / "requirements.txt").read_text(encoding="utf-8").splitlines()
    offline = subprocess.run(
        ["curl", "--silent", "--head", "--max-time", "5", hosting.INDEX], capture_output=True
    ).returncode
    # pip would ask the extra index for every package, five times.
    wanted = [line for line in lines if not (offline and line.startswith("--extra-index-url"))]
    (folder / "wanted.txt").write_text("\n".join(wanted) + "\n", encoding="utf-8")
    done = subprocess.run(
        [*pip, f"gradio=={gradio[1]}", "-r", str(folder / "wanted.txt")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def address(space: Path, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page, as a hub starts it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    home = str(tmp_path_factory.mktemp("home"))
    kept |= {"HOME": home, "ZOO_CACHE": f"{home}/zoo", "PYTHONDONTWRITEBYTECODE": "1"}
    kept |= {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SERVER_PORT": str(port)}
    with subprocess.Popen([str(python), "app.py"], cwd=space, env=kept) as server:
        try:
            deadline = time.monotonic() + HANGS_SECONDS
            while time.monotonic() < deadline:
                assert server.poll() is None, "the Space has ended"
                with socket.socket() as knock:
                    if knock.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(1)
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.terminate()


def test_nothing_else_is_installed(python: Path) -> None:
    """A test of its own: installing takes minutes."""
    code = "import importlib.util as u; print([n for n in ('zoo', 'pytest', 'onnx', 'dulwich') "
    code += "if u.find_spec(n)])"
    done = subprocess.run(
        [str(python), "-c", code], cwd=python.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_tab_answers_a_program(address: str, repository: Path) -> None:
    """Every tab is complete: none says what is not installed."""
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False, httpx_kwargs={"timeout": HANGS_SECONDS})
    config = client.config
    notes = [
        str(part["props"].get("value", ""))
        for part in config["components"]
        if part["type"] == "html"
    ]
    assert not [text for text in notes if "is not installed" in text]
    samples = repository / "docs" / "samples"
    cat = handle_file(samples / "pictures" / "cat.jpg")
    shares = client.predict(cat, "mlperf-tiny-ic", api_name="/classify")[0]
    assert shares["label"] == "cat"
    heard = client.predict(
        handle_file(samples / "sounds" / "seven.wav"), "micronet-kws-s", api_name="/listen"
    )
    assert heard[0]["label"] == "seven"
    _, _, file, facts, _ = client.predict(cat, "sesr-m5-x2", api_name="/upscale")
    assert Path(file).stat().st_size
    assert "MACs" in facts
    weights = (0.0, 0.0, 0.0, 1.0)
    base, fused, facts, _ = client.predict(
        "ROMEO:\nMy lady", "sum", *weights, api_name="/adapters_text"
    )
    assert base != fused
    assert "unchanged" in facts


def test_the_folder_stays_as_it_was(address: str, space: Path) -> None:
    names = {path.name for path in space.iterdir()}
    assert names == {"README.md", "app.py", "requirements.txt", "zoo", hosting.MODEL}
    assert shutil.disk_usage(space).free
