"""The zoo against the embedded hub, and libraries that know nothing of the zoo."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, PyTorchModelHubMixin, constants, hf_hub_download
from safetensors.torch import load_file

import zoo
from zoo.cli import main
from zoo.errors import HubError, MismatchError, UnsafeFileError
from zoo.hub import download


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def served(serve, cache, monkeypatch):
    """A hub as on another machine: an address and a token."""
    hub = serve()
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_TOKEN", hub.token("me"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return hub


def same(ours, theirs):
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_local_takes_the_same_way_through_a_folder_also_offline(made, cache, capsys, monkeypatch):
    monkeypatch.setenv("ZOO_HUB", "")  # set by --hub, and put back after the test
    assert constants.HF_HUB_OFFLINE
    assert main(["push", str(made.path), "me/sesr", "--hub", "local"]) == 0
    url = capsys.readouterr().out.strip()
    assert url.startswith("local:/me/sesr/commit/")
    assert main(["push", str(made.path), "me/sesr", "--hub", "local"]) == 0
    assert capsys.readouterr().out.strip() == url
    assert main(["pull", "me/sesr", "--hub", "local", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["hub"], record["commit"]) == ("local", url.rsplit("/", 1)[-1])
    same(zoo.load("me/sesr").state_dict(), made.load().state_dict())
    assert main(["card", "me/sesr", "--check"]) == 0
    assert main(["show", f"me/sesr@{record['commit']}"]) == 0
    assert {entry.kind for entry in zoo.cache.entries()} >= {"hub"}


def test_a_folder_of_ones_own_is_another_hub(made, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HUB", "local")
    zoo.push(made, "me/sesr")
    monkeypatch.setenv("ZOO_HUB_DIR", str(tmp_path / "other"))
    with pytest.raises(HubError, match=r"me/sesr is not in the local hub .*other; type: zoo push"):
        zoo.pull("me/sesr")
    zoo.push(made, "me/sesr")
    assert (tmp_path / "other").is_dir()


def test_local_asks_the_server_that_runs_on_its_folder(
    made, cache, serve_process, wire, monkeypatch
):
    monkeypatch.setenv("ZOO_HUB", "local")
    served = serve_process("shared")
    monkeypatch.setenv("ZOO_HUB_DIR", str(served.folder))
    zoo.push(made, "me/sesr", private=False)
    assert zoo.pull("me/sesr").config == made.config
    assert wire(served.address)("GET", "/api/models/me/sesr").status == 200
    served.kill()  # and leaves its address behind
    made.record("set5", {"psnr_y_db": 35.5, "images": 5})
    zoo.push(made.path, "me/sesr")
    assert "set5" in zoo.pull("me/sesr").metrics["evaluations"]


@pytest.mark.parametrize("private", [True, False])
def test_what_is_pushed_is_read_by_the_plain_client(served, made, tmp_path, private, monkeypatch):
    url = zoo.push(made, "me/sesr", private=private)
    api = HfApi(endpoint=served.address, token=os.environ["HF_TOKEN"])
    info = api.model_info("me/sesr")
    assert (info.private, url.rsplit("/", 1)[-1]) == (private, info.sha)
    assert {"edge-zoo", "super-resolution", "license:cc-by-4.0"} <= set(info.tags)
    assert len(api.list_repo_commits("me/sesr")) == 2  # the empty one, and ours
    weights = hf_hub_download(
        "me/sesr", "model.safetensors", endpoint=served.address, cache_dir=tmp_path / "hf"
    )
    same(load_file(weights), made.load().state_dict())
    monkeypatch.delenv("HF_TOKEN")
    if private:
        with pytest.raises(HubError, match=r"me/sesr is not on .* zoo hub token create"):
            zoo.pull("me/sesr")
    else:
        assert zoo.pull("me/sesr").config == made.config


def test_tags_branches_and_commits_are_pulled(served, made):
    first = zoo.push(made, "me/sesr").rsplit("/", 1)[-1]
    HfApi(endpoint=served.address, token=os.environ["HF_TOKEN"]).create_tag("me/sesr", tag="v1")
    made.record("set5", {"psnr_y_db": 35.5, "ssim_y": 0.95, "images": 5})
    second = zoo.push(made.path, "me/sesr").rsplit("/", 1)[-1]
    assert zoo.pull("me/sesr@v1").path.name == first
    assert zoo.pull("me/sesr").path.name == second
    assert "set5" in zoo.pull(f"me/sesr@{second}").metrics["evaluations"]
    assert "evaluations" not in zoo.pull(f"me/sesr@{first}").metrics


def test_a_tampered_object_in_the_servers_store_is_noticed(served, made, monkeypatch):
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(download, "LONGEST_WAIT_S", 0.01)
    zoo.push(made, "me/sesr")
    digest = made.config["files"]["model.safetensors"]["sha256"]
    (stored,) = [file for file in served.folder.rglob(f"{digest}*") if file.is_file()]
    data = bytearray(stored.read_bytes())
    data[100] ^= 1
    stored.chmod(0o600)
    stored.write_bytes(data)
    with pytest.raises((UnsafeFileError, HubError)):
        zoo.pull("me/sesr")


def test_a_read_only_token_may_pull_and_not_push(served, made, monkeypatch):
    zoo.push(made, "me/sesr")
    monkeypatch.setenv("HF_TOKEN", served.token("me", role="read"))
    zoo.pull("me/sesr")
    made.record("set5", {"psnr_y_db": 35.5, "images": 5})
    with pytest.raises(HubError, match="does not let the token that was sent do that"):
        zoo.push(made.path, "me/sesr")


def test_what_was_pulled_is_not_recorded_into(served, made, tmp_path):
    zoo.push(made, "me/sesr")
    with pytest.raises(MismatchError, match=r"not changed; type: zoo pull me/sesr --out DIR"):
        zoo.evaluate("me/sesr", tmp_path, record="mine")


def test_threads_leave_the_librarys_settings_as_they_were(served, made):
    before = constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET
    zoo.push(made, "me/sesr")
    with ThreadPoolExecutor(4) as pool:
        assert len({item.path for item in pool.map(zoo.pull, ["me/sesr"] * 8)}) == 1
    assert before == (constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET)


class Tiny(torch.nn.Module, PyTorchModelHubMixin):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(width, 2)


def test_a_mixin_model_goes_both_ways(served, tmp_path):
    model = Tiny(width=4)
    model.save_pretrained(tmp_path / "mixin")
    (tmp_path / "mixin" / "README.md").unlink(missing_ok=True)
    zoo.push(tmp_path / "mixin", "me/tiny")
    pulled = zoo.pull("me/tiny")
    same(Tiny.from_pretrained(pulled).state_dict(), model.state_dict())
    weights = hf_hub_download(
        "me/tiny", "model.safetensors", endpoint=served.address, cache_dir=tmp_path / "hf"
    )
    same(load_file(weights), model.state_dict())


@pytest.mark.slow
def test_libraries_read_ours_and_we_read_theirs(served, client_environment):
    """transformers, peft, diffusers, the mixin, and a quantized model, each in both directions."""
    for name in ("transformers", "peft", "diffusers"):
        pytest.importorskip(name)
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("client_libraries.py"))],
        env=client_environment(served.address, os.environ["HF_TOKEN"]),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout.splitlines()[-1])
    assert {name: text for name, text in results.items() if text != "ok"} == {}
    print(f"{len(results)} of {len(results)} ways between libraries and the zoo")
    api = HfApi(endpoint=served.address, token=os.environ["HF_TOKEN"])
    assert {"peft", "base_model:adapter:me/bert2"} <= set(api.model_info("me/lora2").tags)
    quantized = api.model_info("me/q").card_data
    assert (quantized.base_model_relation, quantized.library_name) == ("quantized", "transformers")
