"""Spaces, data sets, collections, adapters and shards: what else is pushed and pulled."""

import hashlib
import json
import os

import pytest
import torch
from huggingface_hub import HfApi, constants
from safetensors.torch import save, save_file

import zoo
from zoo.cli import main
from zoo.errors import HubError, MismatchError, UnsafeFileError

SPACE = b"---\ntitle: Demo\nsdk: gradio\nsdk_version: 6.31.0\napp_file: app.py\n---\n\n# Demo\n"


@pytest.fixture
def api(serve, tmp_path, monkeypatch):
    """An HfApi of a hub as on another machine; the zoo uses the same one."""
    hub = serve()
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_TOKEN", hub.token("me"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return HfApi(endpoint=hub.address, token=os.environ["HF_TOKEN"])


def folder_of(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def contents(path):
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != ".zoo-pulled.json"
    }


def test_a_space_is_opaque_bytes(api, tmp_path):
    files = {"README.md": SPACE, "app.py": b"boom", "requirements.txt": b"", "a/b.png": b"\x89PNG"}
    ours = folder_of(
        tmp_path / "space", {**files, "__pycache__/app.pyc": b"x", ".env": b"x", "m.pkl": b"x"}
    )
    url = zoo.push(ours, "spaces/me/demo")
    info = api.space_info("me/demo")
    assert (info.sdk, info.private, info.sha) == ("gradio", True, url.rsplit("/", 1)[-1])
    assert set(api.list_repo_files("me/demo", repo_type="space")) == {*files, ".gitattributes"}
    api.upload_file(
        path_or_fileobj=b"\x80\x04N.",
        path_in_repo="m.bin",
        repo_id="me/demo",
        repo_type="space",
    )
    pulled = contents(zoo.pull("spaces/me/demo"))
    assert pulled.pop(".gitattributes")
    assert pulled == files
    (ours / "README.md").write_bytes(b"# Demo\n")
    with pytest.raises(MismatchError, match=r"README\.md names no sdk; a Space's README\.md"):
        zoo.push(ours, "spaces/me/demo")
    (ours / "README.md").write_bytes(SPACE)
    (ours / "app.py").write_bytes(b'token = "hf_' + b"S3cr3tS3cr3tS3cr3t" + b'"')
    with pytest.raises(UnsafeFileError, match=r"app\.py holds what looks like a token"):
        zoo.push(ours, "spaces/me/demo")


def test_a_data_set_keeps_every_kind_of_file(api, tmp_path):
    files = {"train/0.png": b"\x89PNG", "train/1.wav": b"RIFF", "data.parquet": b"PAR1" * 99}
    zoo.push(folder_of(tmp_path / "data", files), "datasets/me/data", private=False)
    assert not api.dataset_info("me/data").private
    pulled = contents(zoo.pull("datasets/me/data"))
    assert {name: pulled[name] for name in files} == files
    commit = api.dataset_info("me/data").sha
    assert zoo.pull(f"datasets/me/data@{commit}").name == commit
    with pytest.raises(HubError, match="me/data is not on"):
        zoo.pull("me/data")  # there is no model of that name


def test_a_collection_is_pulled_member_by_member(api, made, tmp_path, capsys):
    data = folder_of(tmp_path / "data", {"a.csv": b"1,2\n"})
    zoo.push(made, "me/sesr", collection="Tiny things")
    zoo.push(made, "me/sesr", collection="Tiny things")  # again: nothing changes
    zoo.push(data, "datasets/me/data", collection="Tiny things")
    [found] = api.list_collections(owner="me")
    items = api.get_collection(found.slug).items
    assert [(item.item_id, item.item_type) for item in items] == [
        ("me/sesr", "model"), ("me/data", "dataset"),
    ]  # fmt: skip
    name = f"collections/{found.slug}"
    pulled = zoo.pull_all(name)
    assert list(pulled) == ["me/sesr", "datasets/me/data"]
    assert pulled["me/sesr"].config == made.config
    assert (pulled["datasets/me/data"] / "a.csv").read_bytes() == b"1,2\n"
    assert main(["pull", name, "--out", str(tmp_path / "out"), "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert [record["repo"] for record in records] == list(pulled)
    assert (tmp_path / "out" / "me--sesr" / "model.safetensors").is_file()
    with pytest.raises(MismatchError, match=r"is a collection: zoo\.pull_all, or zoo pull"):
        zoo.pull(name)


def test_a_sparse_adapter_goes_with_its_card(api, tmp_path):
    card = (
        "---\nlibrary_name: edge-zoo\nbase_model: me/base\nbase_model_relation: adapter\n"
        "tags: [edge-zoo]\n---\n\n# An adapter\n"
    )
    tensors = {"layer.index": torch.arange(9, dtype=torch.int32), "layer.value": torch.ones(9)}
    files = {"sparse_adapter.safetensors": save(tensors), "README.md": card.encode()}
    zoo.push(folder_of(tmp_path / "sparse", files), "me/sparse")
    assert {"base_model:adapter:me/base"} <= set(api.model_info("me/sparse").tags)
    pulled = contents(zoo.pull("me/sparse"))
    assert {name: pulled[name] for name in files} == files


def test_shards_give_way_to_one_file_with_their_index(api, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert"}')
    names = [f"model-{i:05}-of-00003.safetensors" for i in (1, 2, 3)]
    for i, name in enumerate(names):
        save_file({f"layer.{i}": torch.full((50,), float(i))}, folder / name)
    index = {"metadata": {}, "weight_map": {f"layer.{i}": name for i, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    zoo.push(folder, "me/model")
    pulled = contents(zoo.pull("me/model"))
    for name in names:
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert hashlib.sha256(pulled[name]).hexdigest() == digest
    for name in (*names, "model.safetensors.index.json"):
        (folder / name).unlink()
    save_file({"layer": torch.zeros(3)}, folder / "model.safetensors")
    zoo.push(folder, "me/model")
    assert set(api.list_repo_files("me/model")) == {
        ".gitattributes", "README.md", "config.json", "model.safetensors",
    }  # fmt: skip


def test_a_fine_tuned_checkpoint_names_its_base(api, made, tmp_path):
    from zoo.registry.checkpoint import Checkpoint
    from zoo.verbs.make import _label

    zoo.push(made, "me/base")
    start = _label(zoo.resolve("me/base"))
    assert start == f"me/base@{api.model_info('me/base').sha}"
    tuned = Checkpoint.write(
        tmp_path / "tuned", made.recipe.override({"train.init": start}), made.state_dict(), {}
    )
    zoo.push(tuned, "me/tuned")
    assert {"base_model:me/base", "base_model:finetune:me/base"} <= set(
        api.model_info("me/tuned").tags
    )
    assert f"--from {start}" in (zoo.pull("me/tuned").path / "README.md").read_text()
