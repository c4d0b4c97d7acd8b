"""A ref is resolved once by a command: counted in requests, and in reads of what was pulled."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

import zoo
from zoo.cli import main
from zoo.errors import MismatchError, UnsafeFileError
from zoo.hub import exchange, snapshots
from zoo.registry import find
from zoo.registry.checkpoint import Checkpoint, build

REPO = "me/sesr"
BRANCH = f"/api/models/{REPO}/revision/main"


@pytest.fixture
def commit(hub, tmp_path: Path) -> str:
    """A checkpoint of the zoo on the hub, at this commit."""
    recipe = find("sesr-m3-x2")
    made = Checkpoint.write(tmp_path / "made", recipe, build(recipe).state_dict(), {})
    return hub.add(REPO, {file.name: file.read_bytes() for file in made.path.iterdir()})


@pytest.fixture
def picture(tmp_path: Path) -> str:
    Image.effect_noise((24, 20), 50).convert("RGB").save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The snapshots whose files were all hashed, in order."""
    seen: list[str] = []
    verify = snapshots.Snapshot.verify

    def counted(snapshot: snapshots.Snapshot) -> None:
        seen.append(snapshot.commit)
        verify(snapshot)

    monkeypatch.setattr(snapshots.Snapshot, "verify", counted)
    return seen


@pytest.fixture
def asked(hub) -> Callable[[], list[str]]:
    """The paths that were asked for since the last call."""
    done = 0

    def since() -> list[str]:
        nonlocal done
        paths = [path.partition("?")[0] for _, path, _ in hub.asked[done:]]
        done = len(hub.asked)
        return paths

    return since


def test_run_resolves_once_and_hashes_once(commit, picture, asked, verified, tmp_path):
    words = ["run", REPO, picture, "--out", str(tmp_path / "out.png")]
    assert main(words) == 0
    assert asked().count(BRANCH) == 1
    assert len(verified) <= 1
    del verified[:]
    assert main(words) == 0  # now it is in the cache
    assert asked() == [BRANCH]
    assert verified == [commit]


@pytest.mark.parametrize("words", [["estimate"], ["show"]])
def test_no_weights_are_fetched_for_what_needs_none(commit, asked, words, capsys):
    assert main([*words, REPO, "--json"]) == 0
    paths = asked()
    assert paths.count(BRANCH) == 1
    assert not any("safetensors" in path for path in paths)
    first = json.loads(capsys.readouterr().out)
    assert main([*words, f"{REPO}@{commit}", "--json"]) == 0
    assert asked() == []  # a commit that was looked at
    assert json.loads(capsys.readouterr().out) == first


def test_several_targets_are_one_resolution(commit, asked):
    targets = "ethos-u55-128,ethos-u55-256,phone-npu-4tops"
    assert main(["estimate", REPO, "--target", targets]) == 0
    assert asked().count(BRANCH) == 1


def test_evaluate_and_export_resolve_once(commit, picture, asked, tmp_path):
    assert main(["evaluate", REPO, "--data", str(Path(picture).parent)]) == 0
    assert asked().count(BRANCH) == 1
    out = str(tmp_path / "net.tflite")
    assert main(["export", REPO, "--format", "tflite", "--shape", "1,1,16,16", "--out", out]) == 0
    assert asked() == [BRANCH]


def test_an_artifact_is_not_asked_for_again(commit, asked):
    artifact = zoo.resolve(REPO, weights=False)
    assert artifact.ref == f"{REPO}@{commit}"
    asked()
    zoo.estimate(artifact, "ethos-u55-256")
    assert asked() == []
    zoo.load(artifact)
    assert any("safetensors" in path for path in asked())
    zoo.load(artifact)
    zoo.estimate(artifact, "cpu", input_shape=(1, 1, 8, 8))
    assert asked() == []


def test_what_was_looked_at_is_verified(hub, commit):
    hub.content = lambda path, data: data.replace(b"sesr", b"evil")
    with pytest.raises(UnsafeFileError):
        exchange.look(REPO, None, ("config.json",))
    hub.content = lambda path, data: data
    folder, seen = exchange.look(REPO, None, ("config.json",))
    assert seen == commit
    assert {file.name for file in folder.iterdir()} == {"config.json"}


def test_what_is_no_model_is_refused():
    for item in (None, 3, object()):
        with pytest.raises(MismatchError, match="does not name a model"):
            zoo.resolve(item)
