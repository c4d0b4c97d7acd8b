"""What clients do with a hub, step by step; a program, for a client reads its settings once.

Usage: client_steps.py OTHER_TOKEN READ_TOKEN BIG_MB [SKIPPED ...]
Prints {step: "ok" or the error} as JSON.
Each step is a function of the state that the steps before it left.
"""

import hashlib
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub as hub
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

# The folder of a program that is run is on its path.
from steps_access import (  # type: ignore[import-not-found]  # beside this program
    auth_check,
    gated,
    invalid_token,
    invalid_token_public,
    private_anonymous,
    private_other,
    raises,
    read_token,
)

ADDRESS = os.environ["HF_ENDPOINT"]
WORK = Path(tempfile.mkdtemp())
CARD = """---
license: apache-2.0
library_name: zoo
pipeline_tag: image-to-image
tags: [edge, tiny]
base_model: me/base
base_model_relation: quantized
---
# A model
"""


def whoami(s: SimpleNamespace) -> None:
    assert s.api.whoami()["name"] == "me"


def create_public(s: SimpleNamespace) -> None:
    url = s.api.create_repo("me/model")
    assert (url.repo_id, url.endpoint) == ("me/model", ADDRESS)
    assert not s.api.model_info("me/model").private


def create_private(s: SimpleNamespace) -> None:
    s.api.create_repo("me/secret", private=True)
    assert s.api.model_info("me/secret").private


def create_exist_ok(s: SimpleNamespace) -> None:
    assert s.api.create_repo("me/model", exist_ok=True).repo_id == "me/model"


def create_duplicate(s: SimpleNamespace) -> None:
    with raises(HfHubHTTPError, 409):
        s.api.create_repo("me/model")


def upload_small(s: SimpleNamespace) -> None:
    s.api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="me/model")


def upload_big(s: SimpleNamespace) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    weights = np.random.default_rng(0).standard_normal(s.big_floats, np.float32)
    folder = WORK / "big"
    folder.mkdir()
    save_file({"w": weights, "z": np.zeros(1000, np.float32)}, folder / "m.safetensors")
    (folder / "sub").mkdir()
    (folder / "sub" / "notes.txt").write_text("notes")
    s.folder = folder
    s.api.upload_folder(repo_id="me/model", folder_path=folder)
    assert "m.safetensors" in s.api.list_repo_files("me/model")


def upload_again(s: SimpleNamespace) -> None:
    before = s.api.model_info("me/model").sha
    s.api.upload_folder(repo_id="me/model", folder_path=s.folder)
    assert s.api.model_info("me/model").sha == before


def tree(s: SimpleNamespace) -> None:
    found = {item.path: item for item in s.api.list_repo_tree("me/model", recursive=True)}
    assert set(found) == {".gitattributes", "config.json", "m.safetensors", "sub", "sub/notes.txt"}
    assert found["m.safetensors"].size == (s.folder / "m.safetensors").stat().st_size
    [inside] = s.api.list_repo_tree("me/model", "sub", expand=True)
    assert inside.path == "sub/notes.txt"
    assert inside.last_commit.title.startswith("Upload")


def paths_info(s: SimpleNamespace) -> None:
    found = s.api.get_paths_info("me/model", ["config.json", "sub", "none"], expand=True)
    assert [item.path for item in found] == ["config.json", "sub"]


def download_small(s: SimpleNamespace) -> None:
    assert Path(s.api.hf_hub_download("me/model", "config.json")).read_bytes() == b"{}"
    assert Path(s.api.hf_hub_download("me/model", "sub/notes.txt")).read_text() == "notes"


def download_big(s: SimpleNamespace) -> None:
    path = Path(s.api.hf_hub_download("me/model", "m.safetensors"))
    assert path.read_bytes() == (s.folder / "m.safetensors").read_bytes()
    content = (s.folder / "m.safetensors").read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    # The etag: the sha256, or git's id of a file that is kept in git.
    assert path.resolve().name in (hashlib.sha256(content).hexdigest(), git)


def no_repo(s: SimpleNamespace) -> None:
    with raises(RepositoryNotFoundError, 404):
        s.api.model_info("me/none")


def no_revision(s: SimpleNamespace) -> None:
    with raises(RevisionNotFoundError, 404):
        s.api.hf_hub_download("me/model", "config.json", revision="none")


def no_file(s: SimpleNamespace) -> None:
    with raises(RemoteEntryNotFoundError, 404):
        s.api.hf_hub_download("me/model", "none.json")


def tag(s: SimpleNamespace) -> None:
    s.api.create_tag("me/model", tag="v1/rc", tag_message="first")
    with raises(HfHubHTTPError, 409):
        s.api.create_tag("me/model", tag="v1/rc")
    s.sha = s.api.model_info("me/model").sha
    assert s.api.model_info("me/model", revision="v1/rc").sha == s.sha


def branch(s: SimpleNamespace) -> None:
    s.api.create_branch("me/model", branch="dev")
    s.api.upload_file(
        path_or_fileobj=b"d", path_in_repo="d.txt", repo_id="me/model", revision="dev"
    )
    assert "d.txt" not in s.api.list_repo_files("me/model")
    assert "d.txt" in s.api.list_repo_files("me/model", revision="dev")


def refs(s: SimpleNamespace) -> None:
    found = s.api.list_repo_refs("me/model", include_pull_requests=True)
    assert [item.name for item in found.branches] == ["dev", "main"]
    [mine] = found.tags
    assert (mine.name, mine.target_commit) == ("v1/rc", s.sha)


def commit(s: SimpleNamespace) -> None:
    s.api.create_commit(
        "me/model",
        [
            CommitOperationAdd("new.txt", b"new"),
            CommitOperationDelete("sub/"),
            CommitOperationCopy("m.safetensors", "copy.safetensors"),
            CommitOperationCopy("config.json", "copy.json"),
        ],
        commit_message="Everything at once",
        commit_description="with a text",
        parent_commit=s.sha,
    )
    found = set(s.api.list_repo_files("me/model"))
    assert found == {
        *(".gitattributes", "config.json", "m.safetensors"),
        *("new.txt", "copy.safetensors", "copy.json"),
    }


def stale_parent(s: SimpleNamespace) -> None:
    with raises(HfHubHTTPError, 412):
        s.api.create_commit(
            "me/model",
            [CommitOperationAdd("x", b"x")],
            commit_message="x",
            parent_commit=s.sha,
        )


def history(s: SimpleNamespace) -> None:
    found = s.api.list_repo_commits("me/model")
    assert found[0].title == "Everything at once"
    assert found[0].message == "with a text"
    assert found[-1].title == "initial commit"


def snapshot_tag(s: SimpleNamespace) -> None:
    folder = Path(s.api.snapshot_download("me/model", revision="v1/rc"))
    assert folder.name == s.sha
    assert (folder / "sub" / "notes.txt").read_text() == "notes"


def snapshot_sha(s: SimpleNamespace) -> None:
    folder = WORK / "local"
    s.api.snapshot_download("me/model", revision=s.sha, local_dir=folder)
    assert (folder / "m.safetensors").stat().st_size == (s.folder / "m.safetensors").stat().st_size


def checksums(s: SimpleNamespace) -> None:
    found = s.api.verify_repo_checksums("me/model", revision=s.sha)
    assert found.checked_count >= 4
    assert not found.mismatches


def offline(s: SimpleNamespace) -> None:
    assert hub.snapshot_download("me/model", revision=s.sha, local_files_only=True)
    with raises(LocalEntryNotFoundError):
        hub.hf_hub_download("me/model", "never", local_files_only=True)


def card_push(s: SimpleNamespace) -> None:
    hub.ModelCard(CARD).push_to_hub("me/model")


def card_load(s: SimpleNamespace) -> None:
    data = hub.ModelCard.load("me/model").data
    assert (data.license, data.base_model) == ("apache-2.0", "me/base")


def card_invalid(s: SimpleNamespace) -> None:
    with raises(ValueError):
        hub.ModelCard("---\nlicense: not-a-licence\n---\n").push_to_hub("me/model")


def filters(s: SimpleNamespace) -> None:
    def names(**how: object) -> list[str]:
        return [item.id for item in s.api.list_models(**how)]

    s.api.create_repo("me/other")
    assert set(names()) == {"me/model", "me/secret", "me/other"}
    assert names(filter=["edge", "license:apache-2.0"]) == ["me/model"]
    assert names(filter=["edge", "none"]) == []
    assert names(search="MOD", author="me") == ["me/model"]
    assert names(author="you") == []
    assert names(pipeline_tag="image-to-image") == ["me/model"]
    assert names(filter="base_model:quantized:me/base") == ["me/model"]
    assert len(names(limit=2, sort="created_at")) == 2


def transformers(s: SimpleNamespace) -> None:
    from transformers import AutoModel, BertConfig, BertModel

    config = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    BertModel(config).push_to_hub("me/bert")
    assert AutoModel.from_pretrained("me/bert").config.hidden_size == 16


def peft(s: SimpleNamespace) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModel

    base = AutoModel.from_pretrained("me/bert")
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["query"]))
    model.save_pretrained(WORK / "adapter")
    s.api.create_repo("me/lora")
    s.api.upload_folder(repo_id="me/lora", folder_path=WORK / "adapter", ignore_patterns="*.md")
    PeftModel.from_pretrained(AutoModel.from_pretrained("me/bert"), "me/lora")


def mixin(s: SimpleNamespace) -> None:
    import torch

    class Model(torch.nn.Module, hub.PyTorchModelHubMixin):
        def __init__(self, width: int = 2) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(width, width)

    model = Model(width=3)
    model.push_to_hub("me/mixin")
    again = Model.from_pretrained("me/mixin", strict=True)
    assert torch.equal(again.layer.weight, model.layer.weight)


def safetensors_metadata(s: SimpleNamespace) -> None:
    found = s.api.parse_safetensors_file_metadata("me/model", "m.safetensors")
    assert found.parameter_count == {"F32": s.big_floats + 1000}


def collection(s: SimpleNamespace) -> None:
    made = s.api.create_collection("My models", namespace="me", description="two")
    s.api.add_collection_item(made.slug, "me/model", "model", note="good")
    s.api.add_collection_item(made.slug, "me/secret", "model")
    found = s.api.get_collection(made.slug)
    assert [(item.item_id, item.note) for item in found.items] == [
        ("me/model", "good"),
        ("me/secret", None),
    ]
    seen = s.api.get_collection(made.slug, token=s.other)
    assert [item.item_id for item in seen.items] == ["me/model"]
    s.api.delete_collection(made.slug)


def space(s: SimpleNamespace) -> None:
    s.api.create_repo("me/demo", repo_type="space", space_sdk="gradio")
    s.api.upload_file(
        path_or_fileobj=b"print()", path_in_repo="app.py", repo_id="me/demo", repo_type="space"
    )
    assert s.api.space_info("me/demo").sdk == "gradio"
    path = s.api.hf_hub_download("me/demo", "app.py", repo_type="space")
    assert Path(path).read_bytes() == b"print()"
    s.api.create_repo("me/data", repo_type="dataset")
    assert [item.id for item in s.api.list_datasets()] == ["me/data"]


def deletions(s: SimpleNamespace) -> None:
    s.api.delete_file("new.txt", "me/model")
    s.api.delete_tag("me/model", tag="v1/rc")
    s.api.delete_branch("me/model", branch="dev")
    with raises(HfHubHTTPError, 403):
        s.api.delete_branch("me/model", branch="main")
    s.api.move_repo("me/other", "me/moved")
    s.api.delete_repo("me/moved")
    with raises(RepositoryNotFoundError):
        s.api.model_info("me/moved")


def traversal_client(s: SimpleNamespace) -> None:
    with raises(ValueError):
        CommitOperationAdd("../x", b"x")


def traversal_server(s: SimpleNamespace) -> None:
    operation = CommitOperationAdd("x", b"x")
    operation.path_in_repo = "a/../../x"
    with raises(BadRequestError, 400):
        s.api.create_commit("me/model", [operation], commit_message="x")


STEPS: list[Callable[[SimpleNamespace], None]] = [
    whoami, create_public, create_private, create_exist_ok, create_duplicate,
    upload_small, upload_big, upload_again, tree, paths_info,
    download_small, download_big, no_repo, no_revision, no_file,
    tag, branch, refs, commit, stale_parent,
    history, snapshot_tag, snapshot_sha, checksums, offline,
    card_push, card_load, card_invalid, filters, private_anonymous,
    private_other, invalid_token, invalid_token_public, read_token, gated,
    auth_check, transformers, peft, mixin, safetensors_metadata,
    collection, space, deletions, traversal_client, traversal_server,
]  # fmt: skip


def main() -> None:
    """Run the steps but those that are named."""
    other, reader, big_mb, *skipped = sys.argv[1:]
    floats = int(float(big_mb) * 2**20) // 4
    state = SimpleNamespace(api=HfApi(), other=other, reader=reader, big_floats=floats)
    results = {}
    for step in STEPS:
        if step.__name__ in skipped:
            continue
        try:
            step(state)
            results[step.__name__] = "ok"
        except Exception:
            results[step.__name__] = traceback.format_exc(limit=-4)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
