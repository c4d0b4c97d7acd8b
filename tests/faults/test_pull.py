"""Pull under faults: the result is whole and verified, or absent and the error says why."""

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

import zoo
from zoo.errors import HubError, MismatchError, MissingWeightsError, UnsafeFileError
from zoo.hub import client, download, exchange, snapshots
from zoo.registry import find
from zoo.registry.checkpoint import Checkpoint, build

REPO = "org/model"
WEIGHTS = random.Random(1).randbytes(300_000)
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors": WEIGHTS,
    "README.md": b"# card\n",
    "sub/vocab.txt": b"a\nb\n",
    "empty.txt": b"",
}


# --- what is pulled ------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [1, 2, 1000])
def test_a_repository_comes_whole_with_a_record_of_every_file(hub, commit, page, content):
    hub.page = page
    path = zoo.pull(REPO)
    assert content(path) == FILES
    record = json.loads((path / ".zoo-pulled.json").read_text())
    assert (record["repo"], record["commit"]) == (REPO, commit)
    assert record["files"] == {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for name, data in FILES.items()
    }
    assert not list(path.parent.joinpath(".parts").iterdir())


def test_a_cached_commit_costs_no_request_and_a_branch_costs_one(hub, commit):
    zoo.pull(REPO)
    before = len(hub.asked)
    assert zoo.pull(f"{REPO}@{commit}").name == commit
    assert len(hub.asked) == before
    zoo.pull(f"{REPO}@main")
    assert [path for _, path, _ in hub.asked[before:]] == [f"/api/models/{REPO}/revision/main"]


def test_a_new_commit_brings_only_what_changed(hub, commit, content):
    first = zoo.pull(REPO)
    hub.add(REPO, FILES | {"README.md": b"# other\n"})
    before = len(hub.asked)
    second = zoo.pull(REPO)
    assert first != second
    assert content(second) == FILES | {"README.md": b"# other\n"}
    assert not any("safetensors" in path for _, path, _ in hub.asked[before:])


def test_a_checkpoint_is_loaded_by_its_ref_and_pinned_by_its_commit(hub, tmp_path):
    recipe = find("sesr-m3-x2")
    made = Checkpoint.write(tmp_path / "made", recipe, build(recipe).state_dict(), {})
    commit = hub.add("me/sesr", {file.name: file.read_bytes() for file in made.path.iterdir()})
    for ref in ("me/sesr", "me/sesr@main", f"me/sesr@{commit}"):
        model = zoo.load(ref)
        assert all(
            (ours == theirs).all()
            for ours, theirs in zip(
                model.state_dict().values(), made.load().state_dict().values(), strict=True
            )
        )
    assert zoo.pull("me/sesr").recipe == recipe


def test_another_librarys_model_is_fetched_but_not_loaded(hub, commit):
    path = zoo.pull(REPO)
    with pytest.raises(MismatchError, match=f"not a checkpoint of the zoo.*and in {path}"):
        zoo.load(REPO)


def test_a_copy_goes_into_a_new_folder_only(hub, commit, tmp_path, content):
    assert content(zoo.pull(REPO, tmp_path / "out")) == FILES
    with pytest.raises(MismatchError, match="out is there already; name a new folder"):
        zoo.pull(REPO, tmp_path / "out")


def test_the_cache_lists_it_and_prunes_it(hub, commit, content):
    zoo.pull(REPO)
    (entry,) = zoo.cache.entries()
    assert (entry.kind, entry.size_bytes > len(WEIGHTS)) == ("hub", True)
    zoo.cache.prune()
    assert content(zoo.pull(REPO)) == FILES


# --- cuts and kills ------------------------------------------------------------------------------


@pytest.fixture
def cuts(hub, commit, content, absent):
    """Pull repeatedly, cut at random places; return how many pulls resumed where they stopped."""

    def pull(rounds):
        random_ = random.Random(rounds)
        resumed = 0
        for number in range(rounds):
            shutil.rmtree(zoo.cache.root(), ignore_errors=True)
            hub.asked.clear()
            left = {"cuts": random_.randint(1, 3), "kill": number % 5 == 4}

            def cut(path, start, size, left=left):
                if left["kill"]:  # from here on the hub answers nothing
                    return random_.randint(0, min(size - start, 3)) if size else 0
                if size - start < 2 or not left["cuts"]:
                    return None
                left["cuts"] -= 1
                return random_.randrange(size - start)

            hub.cut = cut
            if left["kill"]:
                with pytest.raises(HubError, match="and kept: the same command goes on"):
                    zoo.pull(f"{REPO}@{commit}")
                assert absent()
                left["kill"] = False
            assert content(zoo.pull(f"{REPO}@{commit}")) == FILES
            resumed += any(range_ for _, _, range_ in hub.asked)
        return resumed

    return pull


def test_a_cut_connection_goes_on_where_it_stopped_ten_times(cuts, monkeypatch):
    monkeypatch.setattr(download, "LONGEST_WAIT_S", 0.002)
    resumed = cuts(10)
    print(f"10 of 10 whole or absent, {resumed} resumed by Range")
    assert resumed >= 5


@pytest.mark.slow
def test_a_cut_connection_fifty_times(cuts, monkeypatch):
    monkeypatch.setattr(download, "LONGEST_WAIT_S", 0.002)
    resumed = cuts(50)
    print(f"50 of 50 whole or absent, {resumed} resumed by Range")
    assert resumed >= 25


def test_bytes_that_are_here_are_not_asked_for_again(hub, commit):
    sent = []

    def cut(path, start, size):
        if path.endswith(".safetensors"):
            sent.append(start)
            return 100_000 if len(sent) < 3 else None
        return None

    hub.cut = cut
    zoo.pull(REPO)
    assert sent == [0, 100_000, 200_000]


def test_a_hub_without_range_is_read_from_the_start(hub, commit, content):
    hub.ranges = False
    left = [1]
    hub.cut = lambda path, start, size: left.pop() * size // 2 if left and size > 1000 else None
    assert content(zoo.pull(REPO)) == FILES


PULL = "import zoo, sys; print(zoo.pull(sys.argv[1]))"


def environment(hub):
    return os.environ | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.address}


@pytest.mark.parametrize("rounds", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_in_the_middle_it_goes_on(hub, commit, rounds, content, folders):
    random_ = random.Random(rounds)
    big = random_.randbytes(4_000_000)
    resumed = 0
    for number in range(rounds):
        commit = hub.add(REPO, FILES | {"model.safetensors": big + bytes([number])})
        slow = threading.Event()

        def throttled(path, data, slow=slow):
            if path.endswith(".safetensors"):
                slow.set()
            return data

        hub.content = throttled
        hub.cut = lambda path, start, size: (
            random_.randrange(size // 2, size) if size > 1_000_000 and start == 0 else None
        )
        process = subprocess.Popen(
            [sys.executable, "-c", PULL, f"{REPO}@{commit}"],
            env=environment(hub), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert slow.wait(60)
        time.sleep(random_.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        done = [path for path in folders() if path.name == commit]
        assert all(content(path)["model.safetensors"][-1] == number for path in done)
        hub.asked.clear()
        hub.cut = lambda path, start, size: None
        path = zoo.pull(f"{REPO}@{commit}")
        assert content(path) == FILES | {"model.safetensors": big + bytes([number])}
        assert not list(path.parent.glob(".?*-*"))
        resumed += any(range_ for _, _, range_ in hub.asked)
    print(f"{rounds} of {rounds} whole after a kill, {resumed} resumed by Range")


def test_many_processes_fetch_each_file_once(hub, commit):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PULL, f"{REPO}@{commit}"],
            env=environment(hub), stdout=subprocess.PIPE, text=True,
        )
        for _ in range(4)
    ]  # fmt: skip
    outputs = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert len(outputs) == 1
    assert hub.count("GET", "resolve") == len(FILES) - 1  # an empty file needs none


# --- tampering -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "README.md"])
def test_the_same_number_of_other_bytes_on_the_wire_is_refused(hub, commit, name, content, absent):
    def flip(path, data):
        return data[:-1] + bytes([data[-1] ^ 1]) if path == name else data

    hub.content = flip
    with pytest.raises(UnsafeFileError, match=f"{name} came with content other"):
        zoo.pull(REPO)
    assert absent()
    hub.content = lambda path, data: data
    assert content(zoo.pull(REPO)) == FILES


@pytest.mark.parametrize(
    "change",
    [lambda d: d + b"x", lambda d: d + d, lambda d: d[:-1]],
    ids=["one-more", "twice", "one-fewer"],
)
def test_more_or_fewer_bytes_than_listed_are_refused(hub, commit, change, absent):
    hub.content = lambda path, data: change(data) if path == "model.safetensors" else data
    with pytest.raises((UnsafeFileError, HubError), match=r"model\.safetensors"):
        zoo.pull(REPO)
    assert absent()


def test_a_tampered_partial_file_is_fetched_anew(hub, commit, content):
    folder = snapshots.folder(exchange.where.place().label, REPO)
    (folder / ".parts").mkdir(parents=True)
    part = folder / ".parts" / f"sha256-{hashlib.sha256(WEIGHTS).hexdigest()}"
    for planted in (b"x" * 1000, b"x" * len(WEIGHTS), b"x" * (len(WEIGHTS) + 1)):
        part.write_bytes(planted)
        assert content(zoo.pull(f"{REPO}@{commit}")) == FILES
        shutil.rmtree(folder / commit)


def changed(path):
    data = bytearray((path / "model.safetensors").read_bytes())
    data[1000] ^= 1
    (path / "model.safetensors").write_bytes(data)


@pytest.mark.parametrize(
    "change",
    [
        changed,
        lambda path: (path / "README.md").write_bytes(b"# kard\n"),
        lambda path: (path / "README.md").unlink(),
        lambda path: (path / "sub" / "extra.json").write_bytes(b"{}"),
        lambda path: (path / ".zoo-pulled.json").write_bytes(b"{}"),
        lambda path: ((path / "empty.txt").unlink(), (path / "empty.txt").symlink_to("/dev/null")),
    ],
    ids=["byte", "same-size", "removed", "added", "record", "symlink"],
)
def test_what_was_changed_in_the_cache_is_not_used(hub, commit, change, content):
    path = zoo.pull(REPO)
    change(path)
    for pull in (zoo.pull, zoo.load):
        if path.exists():
            with pytest.raises(
                UnsafeFileError, match=r"is not what was fetched .* fetches it again"
            ):
                pull(f"{REPO}@{commit}")
    assert content(zoo.pull(f"{REPO}@{commit}")) == FILES


# --- no network, no disk -------------------------------------------------------------------------


def test_offline_a_commit_and_the_last_known_branch_are_used(
    hub, commit, monkeypatch, caplog, content
):
    zoo.pull(REPO)
    monkeypatch.setattr(client.constants, "HF_HUB_OFFLINE", True)
    before = len(hub.asked)
    assert content(zoo.pull(f"{REPO}@{commit}")) == FILES
    assert not caplog.records
    assert content(zoo.pull(REPO)) == FILES
    assert "is used as it was when the hub was last asked" in caplog.text
    with pytest.raises(HubError, match=r"offline mode is on \(HF_HUB_OFFLINE=1\)"):
        zoo.pull("org/other")
    assert len(hub.asked) == before


def test_a_hub_that_is_down_is_named_and_the_last_known_branch_serves(hub, commit, monkeypatch):
    zoo.pull(REPO)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        zoo.pull("org/other")


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_refusal_is_no_reason_to_use_what_was_there_before(hub, commit, status):
    zoo.pull(REPO)
    hub.fail = lambda *_: (status, {})
    with pytest.raises(HubError):
        zoo.pull(REPO)


def test_a_busy_hub_is_asked_again(hub, commit, content):
    busy = [429, 503, 500]
    hub.fail = lambda *_: (busy.pop(), {"Retry-After": "0"}) if len(busy) > 1 else None
    assert content(zoo.pull(REPO)) == FILES


def test_missing_revisions_and_repositories_are_named(hub, commit):
    with pytest.raises(HubError, match="org/model has no revision 'v9'"):
        zoo.pull(f"{REPO}@v9")
    with pytest.raises(HubError, match=r"org/gone is not on .* none was sent.*zoo hub token"):
        zoo.pull("org/gone")


def test_a_disk_without_room_is_seen_before_anything_is_fetched(hub, commit, monkeypatch, absent):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(snapshots.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(HubError, match=r"must be fetched .* 1,000 are free there; make room"):
        zoo.pull(REPO)
    assert hub.count("GET", "resolve") == 0
    assert absent()


def test_a_disk_that_fills_up_leaves_what_arrived(hub, commit, monkeypatch, content, absent):
    update, full = download._Hashes.update, [True]

    def fills_up(self, block):
        if self.count > 100_000 and full:
            full.clear()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        update(self, block)

    monkeypatch.setattr(download._Hashes, "update", fills_up)
    hub.cut = lambda path, start, size: 150_000 if start == 0 and size > 150_000 else None
    with pytest.raises(HubError, match=r"cannot write .*No space left.*what arrived is kept"):
        zoo.pull(REPO)
    assert absent()
    assert content(zoo.pull(REPO)) == FILES


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(MissingWeightsError):
        zoo.load(tmp_path)
    with pytest.raises(MismatchError, match="is already here; expected org/repo"):
        zoo.pull(tmp_path)
