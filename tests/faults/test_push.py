"""Push: one commit or none, never a token anywhere, and never what was not meant."""

import json
import logging
import re

import pytest
from huggingface_hub import constants

import zoo
from zoo.cli import main
from zoo.errors import HubError, MismatchError, MissingWeightsError, UnsafeFileError
from zoo.hub import client
from zoo.registry import find
from zoo.registry.checkpoint import Checkpoint, build

TOKEN = "hf_" + "S3cr3tS3cr3tS3cr3t"
READ = "hf_" + "R3adR3adR3adR3adR3ad"
RECIPE = find("sesr-m3-x2")
REPO = "me/sesr"


@pytest.fixture
def writer(hub, monkeypatch):
    hub.tokens = {TOKEN: "write", READ: "read"}
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


def test_a_push_is_one_commit_on_a_pinned_parent(writer, made):
    url = zoo.push(made.path, REPO)
    first, commit = writer.repos[REPO]
    assert url == f"{writer.address}/{REPO}/commit/{commit}"
    assert writer.count("POST", f"/api/models/{REPO}/commit/main") == 1
    files = writer.repos[REPO][commit]
    assert set(files) == {
        ".gitattributes", "README.md", "config.json", "metrics.json", "model.safetensors",
    }  # fmt: skip
    for name in ("config.json", "metrics.json", "model.safetensors"):
        assert files[name] == (made.path / name).read_bytes()
    assert f'zoo.load("{REPO}")'.encode() in files["README.md"]
    assert writer.visibility[REPO] == "private"
    assert not (made.path / "README.md").exists()
    assert first != commit


def test_an_unchanged_push_makes_no_commit_and_sends_nothing(writer, made):
    url = zoo.push(made, REPO)
    before = len(writer.asked)
    assert zoo.push(made, REPO) == url
    assert [method for method, _, _ in writer.asked[before:]] == ["GET", "GET"]


def test_a_new_version_sends_what_changed_and_drops_old_shards(writer, made):
    zoo.push(made, REPO)
    head = writer.repos[REPO][writer.head(REPO)]
    writer.add(REPO, head | {"model-00001-of-00002.safetensors": b"old", "notes.txt": b"kept"})
    made.record("set5", {"psnr_y_db": 35.5, "ssim_y": 0.95, "images": 5})
    before = writer.count("PUT")
    zoo.push(made.path, REPO)
    files = writer.repos[REPO][writer.head(REPO)]
    assert "model-00001-of-00002.safetensors" not in files
    assert files["notes.txt"] == b"kept"
    assert b"35.50" in files["README.md"]
    assert writer.count("PUT") == before


def test_what_was_pushed_is_pulled_and_pushed_elsewhere(writer, made):
    zoo.push(made, REPO, private=False)
    assert writer.visibility[REPO] == "public"
    pulled = zoo.pull(REPO)
    assert pulled.config == made.config
    zoo.push(pulled, "me/copy")
    assert b'zoo.load("me/copy")' in writer.repos["me/copy"][writer.head("me/copy")]["README.md"]


def test_somebody_elses_commit_in_between_is_kept(writer, made):
    zoo.push(made, REPO)
    made.record("set5", {"psnr_y_db": 35.5, "images": 5})
    theirs = []

    def meanwhile():
        if not theirs:
            theirs.append(writer.add(REPO, {"theirs.txt": b"x"}))

    writer.after_parent = meanwhile
    with pytest.raises(HubError, match="was changed by somebody else meanwhile; push again"):
        zoo.push(made.path, REPO)
    assert writer.head(REPO) == theirs[0]


@pytest.mark.parametrize("item", ["./run", "run/../run"])
def test_a_folder_is_named_by_its_path(writer, made, item, monkeypatch):
    monkeypatch.chdir(made.path.parent)
    assert zoo.push(item, REPO).startswith(writer.address)


# --- who may -------------------------------------------------------------------------------------


def test_without_a_token_both_ways_are_named(hub, made, monkeypatch):
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent/token")
    with pytest.raises(HubError, match=r"needs a token: .*zoo hub token .*add --hub local"):
        zoo.push(made, REPO)
    assert not hub.asked


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("hf_" + "Exp1r3dExp1r3dExp1r3d", "refused the token: expired, revoked .*zoo hub token"),
        (READ, "does not let the token that was sent do that"),
    ],
    ids=["expired", "read-only"],
)
def test_a_token_that_may_not_is_named_but_never_shown(
    writer, made, token, said, monkeypatch, capfd, caplog
):
    caplog.set_level(logging.DEBUG, logger="zoo")
    caplog.set_level(logging.DEBUG, logger="huggingface_hub")
    caplog.set_level(logging.DEBUG, logger="httpx2")
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match=said) as caught:
        zoo.push(made, REPO)
    assert caught.value.__cause__ is None
    assert main(["push", str(made.path), REPO, "-v"]) == 1
    with pytest.raises(HubError):
        main(["push", str(made.path), REPO, "--debug"])
    shown = "".join(capfd.readouterr()) + caplog.text + str(caught.value)
    assert token not in shown
    assert not writer.repos


def test_a_token_is_in_no_log_no_file_and_no_repository(writer, made, capfd, caplog, tmp_path):
    caplog.set_level(logging.DEBUG, logger="zoo")
    caplog.set_level(logging.DEBUG, logger="huggingface_hub")
    caplog.set_level(logging.DEBUG, logger="httpx2")
    assert main(["push", str(made.path), REPO, "-v"]) == 0
    assert main(["pull", REPO, "--out", str(tmp_path / "out"), "-v", "--json"]) == 0
    shown = "".join(capfd.readouterr()) + caplog.text
    assert f"Bearer {TOKEN}" in writer.authorizations
    assert TOKEN not in shown
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) > 10
    assert not any(TOKEN.encode() in file.read_bytes() for file in written)
    assert not any(
        TOKEN.encode() in data for data in writer.repos[REPO][writer.head(REPO)].values()
    )


def test_a_token_does_not_follow_to_another_host(start_hub, hub, monkeypatch):
    other, address = start_hub()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    data = b"w" * 1000
    commit = hub.add(REPO, {"model.safetensors": data})
    other.add(REPO, {"model.safetensors": data})
    place = address.replace("127.0.0.1", "localhost") + f"/{REPO}/resolve/main/model.safetensors"
    hub.fail = lambda _, path: (307, {"Location": place}) if "/resolve/" in path else None
    path = zoo.pull(f"{REPO}@{commit}")
    assert (path / "model.safetensors").read_bytes() == data
    assert set(hub.authorizations) == {f"Bearer {TOKEN}"}
    assert other.authorizations == [None]


def test_http_to_another_machine_is_warned_of_and_passwords_in_addresses_refused(
    monkeypatch, caplog
):
    from zoo.hub import where

    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    client.Connection(where.place(), "http://hub.example", TOKEN)
    assert "http://hub.example is not encrypted: your token can be read" in caplog.text
    assert TOKEN not in caplog.text
    for quiet in ("https://hub.example", "http://127.0.0.1:80", "http://localhost", "http://[::1]"):
        monkeypatch.setenv("HF_ENDPOINT", quiet)
        assert not where.place().is_exposed
    monkeypatch.setenv("HF_ENDPOINT", f"https://user:{TOKEN}@hub.example")
    with pytest.raises(HubError, match="has a name or a password in it") as caught:
        where.place()
    assert TOKEN not in str(caught.value)
    for wrong in ("hub", "ftp://x", "https://", "http://x:y", "https://x?token=1"):
        monkeypatch.setenv("ZOO_HUB", wrong)
        with pytest.raises(HubError, match="is not an address; expected local, or"):
            where.place()


# --- what is sent --------------------------------------------------------------------------------


def test_changed_weights_links_and_secrets_are_not_published(writer, made, tmp_path):
    weights = made.path / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(UnsafeFileError, match=r"is not the file that config\.json describes"):
        zoo.push(made, REPO)
    (tmp_path / "elsewhere").write_bytes(good)
    weights.unlink()
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeFileError, match="is a symbolic link"):
        zoo.push(made, REPO)
    weights.unlink()
    weights.write_bytes(good)
    made.record("set5", {"note": f"made with {TOKEN}", "images": 1})
    with pytest.raises(UnsafeFileError, match=r"metrics\.json holds what looks like a token"):
        zoo.push(made.path, REPO)
    assert not writer.repos


def test_a_card_edited_by_hand_is_sent_when_it_is_right(writer, made):
    made.write_card(zoo.card(made.path) + "\nWritten by hand, 30.1 dB.\n")
    zoo.push(made, REPO)
    assert b"Written by hand" in writer.repos[REPO][writer.head(REPO)]["README.md"]
    made.write_card(zoo.card(made.path) + "\nReaches 99.9 dB.\n")
    with pytest.raises(MismatchError, match=r"the number 99\.9 is neither in .*delete it"):
        zoo.push(made, REPO)


def test_a_licence_the_hub_does_not_know_comes_as_a_file(writer, tmp_path):
    made = Checkpoint.write(
        tmp_path / "run", RECIPE, build(RECIPE).state_dict(), {}, license="Only on Sundays"
    )
    zoo.push(made, REPO)
    files = writer.repos[REPO][writer.head(REPO)]
    assert b"hence of the weights: Only on Sundays" in files["LICENSE"]
    assert b"license: other" in files["README.md"]


def test_a_folder_of_another_library_goes_with_the_least_card(writer, tmp_path):
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"w" * 100)
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "training_args.bin").write_bytes(b"\x80\x04N.")
    (folder / ".secret.json").write_text("{}")
    zoo.push(folder, "me/lora")
    files = writer.repos["me/lora"][writer.head("me/lora")]
    assert set(files) == {
        ".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    assert re.search(rb"base_model: org/base\nbase_model_relation: adapter", files["README.md"])
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(MissingWeightsError, match="no weights as safetensors"):
        zoo.push(folder, "me/lora")


@pytest.mark.parametrize("repo", ["me", "me/a/b", "me/..", "me/a--b", "../x", "me/x.git"])
def test_what_is_no_repository_id_is_refused(writer, made, repo):
    with pytest.raises(MismatchError, match="is not a repository id"):
        zoo.push(made, repo)
    assert not writer.asked


def test_a_disk_that_fails_and_a_hub_that_dies_commit_nothing(writer, made, monkeypatch):
    zoo.push(made, REPO)
    head = writer.head(REPO)
    made.record("set5", {"psnr_y_db": 35.5, "images": 5})
    for part in ("/preupload/", "/commit/"):
        writer.fail = lambda _, path, part=part: (500, {}) if part in path else None
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
        with pytest.raises(HubError, match="answered 500 for me/sesr"):
            zoo.push(made.path, REPO)
        assert writer.head(REPO) == head


def test_the_library_is_left_as_it_was(writer, made):
    before = constants.HF_HUB_DISABLE_XET, constants.HF_HUB_OFFLINE
    zoo.push(made, REPO)
    assert before == (constants.HF_HUB_DISABLE_XET, constants.HF_HUB_OFFLINE)
