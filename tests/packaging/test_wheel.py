"""The wheel, built as a release is: sdist first, then the wheel from it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

CONTENT = ("adapters", "cards", "spaces")
# A maintainer's secret, and a leftover of an interpreter: git-ignored, and right where
# `force-include` would pick them up.
PLANTED = ("spaces/demo/.env", "cards/__pycache__/junk.pyc", "zoo/__pycache__/junk.pyc")


def git_files(root: Path, *options: str) -> list[str]:
    """Return the paths that `git ls-files` prints."""
    done = subprocess.run(
        ["git", "ls-files", "-z", *options], cwd=root, capture_output=True, text=True, check=True
    )
    return [name for name in done.stdout.split("\0") if name]


@pytest.fixture(scope="module")
def tracked(repository: Path) -> set[str]:
    """Paths that git tracks, or would on `git add`."""
    if not (repository / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout")
    names = git_files(repository, "--cached", "--others", "--exclude-standard")
    return {name for name in names if (repository / name).is_file()}


@pytest.fixture(scope="module")
def built(repository: Path, tracked: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the sdist and the wheel, built from a copy with junk in it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in sorted(tracked):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository / name, source / name)
    for name in PLANTED:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("not for release")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    """The wheel."""
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def files(wheel: Path) -> set[str]:
    """Paths in the wheel, without the metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """The wheel's METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel alone is installed into."""
    target = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--no-index", "--no-compile", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    return target


def python(code: str, path: Path) -> str:
    """Run `code` where only the installed wheel, not the checkout, is found as `zoo`."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=path,
        env=os.environ | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_zoo_is_the_only_top_level_name(files: set[str]) -> None:
    assert {name.split("/")[0] for name in files} == {"zoo"}


def test_content_is_what_git_tracks_no_more_and_no_less(
    repository: Path, tracked: set[str], files: set[str]
) -> None:
    shipped = {name.removeprefix("zoo/_content/") for name in files}
    expected = {name for name in tracked if name.startswith(("zoo/", *(f"{c}/" for c in CONTENT)))}
    assert shipped == expected
    unknown = expected - set(git_files(repository))
    assert not unknown, "git does not know these: git add them, or move them away"


def test_nothing_ignored_by_git_is_released(built: Path, files: set[str]) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert not names.intersection(PLANTED)
    assert {".env", "junk.pyc"}.isdisjoint(Path(name).name for name in files | names)


def test_sdist_has_what_its_tests_need(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "Makefile", "constraints.txt", "tests/conftest.py"} <= names


def test_content_folders_are_no_packages(files: set[str]) -> None:
    content = {name for name in files if name.startswith("zoo/_content/")}
    assert {name.split("/")[2] for name in content} == set(CONTENT)
    assert not [name for name in content if name.endswith("__init__.py")]


def test_metadata(metadata: Message, wheel: Path) -> None:
    assert metadata["Name"] == "edge-zoo"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    extras = metadata.get_all("Provides-Extra")
    assert extras is not None
    assert set(extras) == {
        *("train", "export", "tflite", "llm", "adapters", "audio", "microphone", "docs"),
        *("hub", "serve", "mcp", "all", "dev", "codesign", "search", "cluster"),
    }
    with zipfile.ZipFile(wheel) as archive:
        (script,) = (n for n in archive.namelist() if n.endswith(".dist-info/entry_points.txt"))
        assert b"zoo = zoo.cli:main" in archive.read(script)
        assert [n for n in archive.namelist() if n.endswith(".dist-info/licenses/LICENSE")]


def test_installed_zoo_finds_its_content(installed: Path) -> None:
    code = (
        "import zoo; from zoo.content import content\n"
        "print(zoo.__file__)\n"
        f"for kind in {CONTENT}: print(content(kind))"
    )
    package, *folders = map(Path, python(code, installed).splitlines())
    assert package == installed / "zoo" / "__init__.py"
    assert folders == [installed / "zoo" / "_content" / kind for kind in CONTENT]
    assert all(folder.is_dir() for folder in folders)


def test_installed_zoo_lists_recipes_and_ships_weights(installed: Path, repository: Path) -> None:
    code = "import zoo.registry as r\nfor n in r.names(): print(n, *r.shipped_tags(n))"
    listed = {name: tags for name, *tags in map(str.split, python(code, installed).splitlines())}
    assert "sesr-m5-x2" in listed
    ours = {p.parent.name for p in (repository / "zoo" / "weights").glob("*/config.json")}
    assert {f"{name}.{tag}" for name, tags in listed.items() for tag in tags} == ours


def test_an_installed_zoo_tells_what_pip_can_find(installed: Path) -> None:
    """A wheel knows what its extras require; the wheel itself is not in any index."""
    code = "from zoo.errors import MissingExtraError as e; print(e.of('gradio', 'serve'))"
    words = shlex.split(python(code, installed).partition("; type: ")[2])
    assert words[:4] == [sys.executable, "-m", "pip", "install"]
    names = {re.split(r"[<>=]", word)[0] for word in words[4:]}
    assert names == {
        *("accelerate", "diffusers", "gguf", "gradio", "peft", "transformers"),
        *("soundfile", "soxr"),
    }


def test_checkout_finds_its_content(repository: Path) -> None:
    from zoo.content import content

    for kind in CONTENT:
        assert Path(str(content(kind))) == repository / kind
