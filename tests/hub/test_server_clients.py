"""Unmodified clients against the embedded hub: huggingface_hub, `hf`, transformers, peft, git."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import HANGS_SECONDS

# huggingface_hub uploads by a call that its own HTTP library has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
STEPS = Path(__file__).with_name("client_steps.py")
# The three ways in which weights travel, and what leads a client to each.
MODES = {
    "xet": ({}, {}),
    "lfs": ({}, {"HF_HUB_DISABLE_XET": "1"}),
    "regular": ({"inline_bytes": 1 << 25}, {}),
}
LIBRARIES = ["transformers", "peft", "mixin"]  # these steps import for seconds
GIT = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}


def steps(serve, client_environment, mode, megabytes, skipped):
    settings, variables = MODES[mode]
    served = serve(**settings)
    arguments = [served.token("other"), served.token("me", "read"), str(megabytes), *skipped]
    done = subprocess.run(
        [sys.executable, str(STEPS), *arguments],
        env=client_environment(served.address, served.token(), **variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    failed = {name: text for name, text in results.items() if text != "ok"}
    assert not failed, "\n".join(f"== {name}\n{text}" for name, text in failed.items())
    kept = [row.name for row in (served.folder / "objects").glob("??/??/*")]
    assert bool(kept) == (mode != "regular")
    xorbs = list((served.folder / "xorbs").rglob("*"))
    assert bool(xorbs) == (mode == "xet")
    return len(results)


@pytest.mark.parametrize("mode", MODES)
def test_client_steps(serve, client_environment, mode):
    assert steps(serve, client_environment, mode, 3, LIBRARIES) == 45 - len(LIBRARIES)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_all_client_steps(serve, client_environment, mode):
    missing = [name for name in LIBRARIES[:2] if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    assert steps(serve, client_environment, mode, 30, []) == 45


def test_hf_command(serve, client_environment, tmp_path):
    served = serve()
    environment = client_environment(served.address, served.token())
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)) * 100)

    def hf(*arguments):
        command = [str(Path(sys.executable).with_name("hf")), *arguments]
        if not Path(command[0]).exists():  # the package is on the path of another environment
            program = "import sys; from huggingface_hub.cli.hf import main; main()"
            command = [sys.executable, "-c", program, *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    assert "me" in hf("auth", "whoami")
    hf("repos", "create", "me/cli")
    hf("upload", "me/cli", str(tmp_path / "model.safetensors"))
    hf("download", "me/cli", "model.safetensors", "--local-dir", str(tmp_path / "down"))
    assert (tmp_path / "down" / "model.safetensors").read_bytes()[:3] == b"\0\1\2"
    assert "me/cli" in hf("models", "list", "--quiet")


@pytest.fixture
def pushed(serve, monkeypatch):
    """A hub with a private repository of a small and a large file."""
    from huggingface_hub import CommitOperationAdd, HfApi, constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    served = serve()
    token = served.token()
    api = HfApi(endpoint=served.address, token=token)
    api.create_repo("me/cloned", private=True)
    # A stream travels by LFS, also with Xet on.
    with Path(__file__).open("rb") as stream:
        operation = CommitOperationAdd("model.safetensors", stream)
        files = [operation, CommitOperationAdd("sub/a.txt", b"a")]
        api.create_commit("me/cloned", files, commit_message="Two files")
    return served, token


def git(*arguments, cwd, check=True):
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(cwd), **GIT}
    return subprocess.run(
        ["git", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=check
    )


@pytest.mark.skipif(not shutil.which("git"), reason="no git on the PATH")
def test_git_clone_and_fetch(pushed, tmp_path):
    served, token = pushed
    address = served.address.replace("http://", f"http://me:{token}@")
    git("clone", f"{address}/me/cloned", "clone", cwd=tmp_path)
    clone = tmp_path / "clone"
    assert (clone / "sub" / "a.txt").read_text() == "a"
    pointer = (clone / "model.safetensors").read_text()
    assert pointer.startswith("version https://git-lfs")
    assert git("log", "--format=%s", cwd=clone).stdout == "Two files\ninitial commit\n"
    git("fsck", "--strict", cwd=served.folder / "repos" / "1.git")
    # The bare repository is one for git itself, too.
    git("clone", str(served.folder / "repos" / "1.git"), "bare", cwd=tmp_path)
    refused = git("push", "origin", "HEAD:new", cwd=clone, check=False)
    assert refused.returncode != 0
    assert "no git push" in refused.stderr or "403" in refused.stderr
    denied = git("clone", f"{served.address}/me/cloned", "no", cwd=tmp_path, check=False)
    assert denied.returncode != 0


@pytest.mark.skipif(not shutil.which("git-lfs"), reason="no git-lfs on the PATH")
def test_git_lfs_pull(pushed, tmp_path):
    served, token = pushed
    address = served.address.replace("http://", f"http://me:{token}@")
    git("clone", f"{address}/me/cloned.git", "clone", cwd=tmp_path)
    git("lfs", "install", "--local", cwd=tmp_path / "clone")
    git("lfs", "pull", cwd=tmp_path / "clone")
    content = (tmp_path / "clone" / "model.safetensors").read_bytes()
    assert content == Path(__file__).read_bytes()
