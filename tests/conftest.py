"""What every test stands on: no network, folders of its own, one thread, and the real data.

This file is read before any test imports torch, gradio or huggingface_hub, which look at the
environment once, when they are imported. Programs that tests start inherit it too.
"""

import atexit
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import hypothesis
import pytest

if TYPE_CHECKING:
    from zoo.registry.checkpoint import Checkpoint

_HOME = Path(tempfile.mkdtemp(prefix="zoo-tests-"))
_ROOT = Path(__file__).resolve().parents[1]
_DATA = Path(os.environ.get("ZOO_TEST_DATA") or _ROOT.parent / "shared" / "data")
_CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

os.environ |= {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_TEMP_DIR": str(_HOME / "gradio"),
    "HF_HOME": str(_HOME / "huggingface"),
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "ZOO_CACHE": str(_HOME / "zoo"),
}
for _name in ("HF_ENDPOINT", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_CACHE", "ZOO_HUB"):
    os.environ.pop(_name, None)
# Sums do not depend on how many cores a machine has, and tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The same examples in every run, and none of them late on a busy machine.
hypothesis.settings.register_profile("zoo", deadline=None, derandomize=True)
hypothesis.settings.load_profile("zoo")
# Not a pytest hook: what a test started may write until the interpreter ends.
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine has no data or no browser for, with the reason."""
    no_data = pytest.mark.skip(reason=f"no real data in {_DATA}; set ZOO_TEST_DATA to its folder")
    no_browser = pytest.mark.skip(reason="no Chromium on the PATH")
    for item in items:
        if item.get_closest_marker("data") and not _DATA.is_dir():
            item.add_marker(no_data)
        if item.get_closest_marker("browser") and _CHROMIUM is None:
            item.add_marker(no_browser)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; for tests marked `data`, which are skipped where it is absent."""
    return _DATA


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of Chromium; for tests marked `browser`, which are skipped where it is absent."""
    assert _CHROMIUM, "mark the test with @pytest.mark.browser"
    return _CHROMIUM


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return _ROOT


@pytest.fixture(autouse=True)
def opened_by_every_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open each `.tflite` file that the package makes in every runtime, whatever the test is of."""
    from tests.runtimes import open_everywhere
    from zoo.deploy import flatbuffer, tflite_write

    def write(*arguments: Any) -> bytes:
        content = flatbuffer.write(*arguments)
        open_everywhere(content)
        return content

    # There alone: tests write damaged files by `flatbuffer` itself.
    monkeypatch.setattr(tflite_write, "flatbuffer", types.SimpleNamespace(write=write))


@pytest.fixture
def made(tmp_path: Path) -> "Checkpoint":
    """A checkpoint of the smallest recipe, untrained, with a metric."""
    from zoo.registry import find
    from zoo.registry.checkpoint import Checkpoint, build

    recipe = find("sesr-m3-x2")
    metrics = {"held_out": {"psnr_y_db": 30.123456, "ssim_y": 0.91, "images": 2}}
    tensors = build(recipe).state_dict()
    return Checkpoint.write(tmp_path / "run", recipe, tensors, metrics, license="CC-BY-4.0")


@pytest.fixture(scope="session")
def first_commands(repository: Path) -> Callable[[Path], list[list[str]]]:
    """The README's block of commands; in a folder, the part of a clone that they read."""
    text = (repository / "README.md").read_text(encoding="utf-8")
    block = text.partition("## On the command line")[2].partition("```sh\n")[2].partition("```")[0]

    def prepared(folder: Path) -> list[list[str]]:
        (folder / "docs").symlink_to(repository / "docs")
        lines = (line.partition("#")[0] for line in block.splitlines())
        return [shlex.split(line) for line in lines if line.strip()]

    return prepared


@pytest.fixture(scope="session")
def guide(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built guide; workers side by side share one."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "site"
    with filelock.FileLock(f"{folder}.lock"):
        if folder.exists():
            return folder
        made = tmp_path_factory.mktemp("guide") / "site"
        done = subprocess.run(
            [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(made)],
            cwd=repository, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        made.rename(folder)
    return folder
