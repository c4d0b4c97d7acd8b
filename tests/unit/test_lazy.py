"""Names, listing and help cost no heavy import."""

import pkgutil
import subprocess
import sys

import pytest

from zoo import cli, recipes, registry, verbs

MOST_MODULES = 54  # of ours beside the families; each costs about a millisecond
LIGHT = [
    module.name
    for room in (cli, recipes, registry, verbs)
    for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}.")
]
HEAVY = ("accelerate", "cv2", "gradio", "huggingface_hub", "numpy", "torch")


@pytest.mark.parametrize(
    "code",
    [
        "import zoo",
        f"import {', '.join(['zoo', 'zoo.content', 'zoo.errors', 'zoo.files', *LIGHT])}",
        "import zoo; assert 'sesr-m5-x2' in zoo.names('sesr-*'); zoo.find('sesr-m5-x2')",
        "from zoo.cli import main; assert not main(['list'])",
        "from zoo.cli import main; assert not main(['list', 'sesr-*', '--json'])",
        "from zoo.cli import main; assert not main(['show', 'sesr-m5-x2'])",
    ],
    ids=["import", "modules", "names", "list", "list-json", "show"],
)
def test_imports_nothing_heavy(code: str) -> None:
    check = f"{code}\nimport sys; print([n for n in {HEAVY} if n in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"


def test_listing_imports_few_modules() -> None:
    """What `zoo list` reads of this package; a room that listing does not need stays out."""
    code = (
        "from zoo.cli import main; main(['list'])\n"
        "import sys; print([n for n in sys.modules if n.split('.')[0] == 'zoo'], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stderr.strip().strip("[]").replace("'", "").split(", ")
    rooms = {name.split(".")[1] for name in loaded if "." in name}
    heavy = {"cards", "cost", "deploy", "quantization", "training", "tasks", "data", "runtime"}
    assert not rooms & (heavy | {"graph", "models", "integrations"})
    assert len([name for name in loaded if not name.startswith("zoo.recipes.")]) <= MOST_MODULES
