"""Names, listing and help cost no heavy import."""

import subprocess
import sys

import pytest

HEAVY = ("accelerate", "cv2", "gradio", "huggingface_hub", "numpy", "torch")


@pytest.mark.parametrize(
    "code",
    [
        "import zoo",
        "import zoo, zoo.registry.refs, zoo.content, zoo.errors, zoo.files, zoo.registry.recipe",
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
