"""Repositories that mean harm: nothing of them is written, run, or written elsewhere."""

import pytest

import zoo
from zoo.errors import HubError, MismatchError, UnsafeFileError
from zoo.hub import client

REPO = "org/model"
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": b"weights" * 999,
    "sub/vocab.txt": b"a\nb\n",
}


NAMES = [
    "../up.json", "/etc/x.json", "a/../../b.json", "a//b.json", "./a.json", "", "a/", "..",
    "C:/x.json", "c:x.json", "a\\b.json", "..\\b.json", "a\0.json", "a\n.json", "\x1b[2J.json",
    ".git/config.json", "a/.GIT/x.json", "git~1/x.json", "con.json", "a/NUL", "lpt1.txt",
    "a./b.json", "a /b.json", "x" * 300 + ".json", "a/" * 600 + "b.json", "a\u202e.json",
    ".zoo-pulled.json", ".Zoo-Pulled.json/x.json", "a:b.json", "a*.json", "\ud800.json",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_name_that_could_leave_the_folder_refuses_the_repository(
    hub, commit, name, tmp_path, absent
):
    hub.rows = lambda rows: [*rows, {**rows[0], "path": name}]
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    with pytest.raises(UnsafeFileError, match="the repository holds a file named"):
        zoo.pull(REPO)
    assert absent()
    assert hub.count("GET", "resolve") == 0
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"path": "CONFIG.json"}, "one file on some systems"),
        ({"path": "config.json"}, "one file on some systems"),
        ({"path": "config.json/x.json"}, "both as a file and as a folder"),
        ({"path": 7}, "without a size and a hash"),
        ({"size": -1}, "without a size and a hash"),
        ({"size": "9"}, "without a size and a hash"),
        ({"oid": "../../x"}, "without a size and a hash"),
        ({"oid": None}, "without a size and a hash"),
        ({"lfs": {"oid": "../" * 21 + "a", "size": 1}}, "without a size and a hash"),
        ({"lfs": {"size": 1}}, "without a size and a hash"),
    ],
    ids=[
        "case",
        "same",
        "folder",
        "type",
        "negative",
        "text",
        "climbing",
        "none",
        "lfs-climbing",
        "lfs-none",
    ],
)
def test_a_listing_that_cannot_be_trusted_is_refused(hub, commit, extra, said, absent):
    hub.rows = lambda rows: [*rows, {**rows[0], "path": "new.json"} | extra]
    with pytest.raises(UnsafeFileError, match=said):
        zoo.pull(REPO)
    assert absent()


def test_a_listing_without_end_is_left(hub, commit, monkeypatch):
    monkeypatch.setattr(client, "MAX_FILES", 2)
    hub.page = 1
    with pytest.raises(UnsafeFileError, match="lists more than 2 files"):
        zoo.pull(REPO)


def test_a_listing_that_goes_on_at_another_host_is_not_followed(hub, commit):
    hub.page = 1
    hub.next_at = hub.address.replace("127.0.0.1", "localhost")
    with pytest.raises(HubError, match="continues its listing on another host; not followed"):
        zoo.pull(REPO)


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "a/model.pt", "last.ckpt", "M.PTH"])
def test_a_pickle_is_skipped_and_refused_when_it_is_the_only_weights(hub, pickle, content):
    hub.add(REPO, FILES | {pickle: b"\x80\x04N."})
    assert content(zoo.pull(REPO)) == FILES
    other = {name: data for name, data in FILES.items() if name != "model.safetensors"}
    hub.add(REPO, other | {pickle: b"\x80\x04N."})
    asked = hub.count("GET", "resolve")
    with pytest.raises(UnsafeFileError, match=r"only weights of org/model are pickles \("):
        zoo.pull(REPO)
    assert hub.count("GET", "resolve") == asked


def test_code_is_never_fetched(hub, content):
    hub.add(REPO, FILES | {"modeling.py": b"boom", "x.so": b"boom", "run.sh": b"boom"})
    assert content(zoo.pull(REPO)) == FILES


@pytest.mark.parametrize(
    "ref", ["a/..", "a..b/c", "a--b/c", "-a/b", "a/b.git", "a/b-", "a/" + "b" * 96]
)
def test_what_is_no_repository_id_is_never_asked_for(hub, ref):
    with pytest.raises(MismatchError, match="is not a repository id; expected org/name"):
        zoo.pull(ref)
    assert not hub.asked
