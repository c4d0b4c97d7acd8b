"""`zoo space`: the page as one flat folder, and on a hub in one commit."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import CommitOperationAdd, HfApi, constants

import zoo
from zoo.cli import main
from zoo.errors import MismatchError, ZooError
from zoo.page import hosting


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder, without the language model: 98 MB."""
    folder = tmp_path_factory.mktemp("built") / "space"
    assert hosting.assemble(folder, language_model=False) == []
    return folder


def test_the_folder_is_flat_and_whole(space: Path, repository: Path) -> None:
    assert {path.name for path in space.iterdir()} == {
        "README.md", "app.py", "requirements.txt", "zoo",
    }  # fmt: skip
    names = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    assert {
        "zoo/page/tabs/looks.py",
        "zoo/weights/sesr-m5-x2.free/model.safetensors",
        "zoo/_content/adapters/looks-pencil.toml",
        "zoo/_content/spaces/demo/app.py",
    } <= names
    assert not [name for name in names if "__pycache__" in name or "/." in name]
    ours = {path.relative_to(repository).as_posix() for path in repository.glob("zoo/**/*.py")}
    assert {name for name in names if name.endswith(".py")} >= ours


def test_the_front_matter_and_the_requirements_name_what_runs_here(
    space: Path, repository: Path
) -> None:
    front = yaml.safe_load((space / "README.md").read_text(encoding="utf-8").split("---")[1])
    pins = dict(re.findall(r"(?m)^(\S+)==(\S+)$", (repository / "constraints.txt").read_text()))
    assert front["sdk"] == "gradio"
    assert front["sdk_version"] == pins["gradio"]
    assert front["python_version"] == "{}.{}".format(*sys.version_info)
    assert (space / front["app_file"]).is_file()
    assert len(front["short_description"]) <= 60  # the Hub refuses longer ones
    index, *lines = (space / "requirements.txt").read_text().splitlines()
    assert index == f"--extra-index-url {hosting.INDEX}"
    found = dict(line.split("==") for line in lines)
    assert {"torch", "diffusers", "soundfile", "numpy", "filelock"} <= set(found)
    assert not {"gradio", "edge-zoo", "pytest", "onnx"} & set(found)
    assert {name: pins.get(name, version) for name, version in found.items()} == found


def test_it_runs_beside_nothing_else_of_ours(space: Path) -> None:
    """The copy is the one that is imported, and its content is read from within it."""
    code = "import zoo; from zoo.content import content; print(zoo.__file__, content('adapters'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=space, capture_output=True, text=True, check=True
    )
    file, adapters = done.stdout.split()
    assert Path(file) == space / "zoo" / "__init__.py"
    assert Path(adapters) == space / "zoo" / "_content" / "adapters"


def test_a_copy_without_metadata_says_where_to_type_it(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hosting, "NAME", "no-such-distribution")
    monkeypatch.setattr(hosting, "PACKAGE", tmp_path / "zoo")
    with pytest.raises(ZooError, match="type zoo space build in a clone"):
        hosting.requirements()


def test_the_wheels_metadata_say_the_same(monkeypatch, tmp_path: Path) -> None:
    """As where a wheel is installed: no pyproject.toml, but what pip was told."""
    from_project = hosting.requirements()
    declared = hosting._declared()
    lines = [*declared[0]]
    lines += [f"{text}; extra == '{extra}'" for extra, all in declared[1].items() for text in all]
    monkeypatch.setattr(hosting, "PACKAGE", tmp_path / "zoo")
    monkeypatch.setattr(hosting.importlib.metadata, "requires", lambda name: lines)
    assert hosting.requirements() == from_project


def test_an_existing_folder_is_not_touched(space: Path, capsys) -> None:
    before = (space / "app.py").read_bytes()
    assert main(["space", "build", "--out", str(space)]) == 1
    assert f"{space} already exists; choose another --out, or remove it" in capsys.readouterr().err
    assert (space / "app.py").read_bytes() == before


def test_a_name_that_is_too_long_says_how_long_one_may_be() -> None:
    with pytest.raises(MismatchError, match="96 at most"):
        hosting.publish(f"me/{'x' * 94}", language_model=False)


def test_a_folder_below_a_file_is_refused_with_what_to_do(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("mine")
    assert main(["space", "build", "--out", str(tmp_path / "file" / "space")]) == 1
    assert "choose a folder in another place" in capsys.readouterr().err


def test_a_model_that_is_missing_is_named(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hosting, "MODEL", "no_such_model")
    (sentence,) = hosting._with_model(tmp_path)
    assert re.search(r"no language model: .*; type: .*--no-deps no-such-model$", sentence)


@pytest.fixture
def api(serve, monkeypatch, tmp_path: Path) -> HfApi:
    """An HfApi of a hub as on another machine; the zoo uses the same one."""
    hub = serve()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_TOKEN", hub.token("me"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return HfApi(endpoint=hub.address, token=hub.token("me"))


def test_push_makes_one_commit_and_then_none(
    api: HfApi, space: Path, monkeypatch, tmp_path, capsys
) -> None:
    """Of a page with fewer files; the whole one goes through the slow test below."""

    def assemble(out: Path, *, language_model: bool) -> None:
        assert not language_model
        shutil.copytree(space / "zoo" / "page", out / "zoo" / "page")
        for name in ("README.md", "app.py", "requirements.txt"):
            shutil.copy(space / name, out)

    monkeypatch.setattr(hosting, "assemble", assemble)
    api.create_repo("me/page", repo_type="space", space_sdk="gradio")
    stale = CommitOperationAdd("zoo/page/tabs/old.py", b"TITLE = 'gone'")
    api.create_commit("me/page", [stale], repo_type="space", commit_message="old")
    before = len(api.list_repo_commits("me/page", repo_type="space"))
    assert main(["space", "push", "me/page", "--no-model", "--json"]) == 0
    pushed = json.loads(capsys.readouterr().out)
    after = api.list_repo_commits("me/page", repo_type="space")
    assert len(after) == before + 1
    assert pushed["commit"].endswith(f"/spaces/me/page/commit/{after[0].commit_id}")
    assemble(tmp_path / "expected", language_model=False)
    _is_there(api, tmp_path / "expected")
    assert main(["space", "push", "spaces/me/page", "--no-model"]) == 0
    assert capsys.readouterr().out.strip() == pushed["commit"]


@pytest.mark.slow
def test_the_whole_page_goes_to_a_hub(api: HfApi, space: Path) -> None:
    address, files = hosting.publish("me/page", language_model=False)
    assert address.endswith(api.space_info("me/page").sha or "?")
    assert files == sum(path.is_file() for path in space.rglob("*"))
    _is_there(api, space)


def _is_there(api: HfApi, folder: Path) -> None:
    """The Space holds what the folder does, to the byte, and the hub's own file."""
    files = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*") if f.is_file()}
    assert {*api.list_repo_files("me/page", repo_type="space")} == {*files, ".gitattributes"}
    pulled = zoo.pull("spaces/me/page")
    assert isinstance(pulled, Path)
    assert all((pulled / name).read_bytes() == file.read_bytes() for name, file in files.items())


@pytest.mark.parametrize(
    "repo", ["page", "datasets/me/page", "models/me/page", "me/pa ge", "a/b/c"]
)
def test_what_is_no_name_of_a_space(repo: str) -> None:
    with pytest.raises(MismatchError, match=re.escape(repo)):
        hosting.publish(repo, language_model=False)
