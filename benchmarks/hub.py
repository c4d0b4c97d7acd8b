"""The hub's speed: a 500 MB file in and out against curl and nginx, and many clients at once.

Goals: pull at least 60 % and push (LFS) at least 40 % of the speed of curl from a static nginx,
followed by sha256sum and sync of the same file; a thousand files in one commit; a hundred readers
and 24 writers at once, of whose acknowledged commits none is missing.

    python -m benchmarks.hub [--megabytes 500] [--runs 5]
"""

import argparse
import base64
import functools
import hashlib
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, alternate, ratio, report
from zoo.hub import exchange

READERS, WRITERS, COMMITS, FILES = 100, 24, 5, 1000
PULL_GOAL, PUSH_GOAL = 0.6, 0.4
_NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{ access_log off; sendfile on; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port}; root {folder}/www; }} }}
"""
_XET = """
import sys, time
from huggingface_hub import CommitOperationAdd, HfApi
api = HfApi()
api.create_repo(sys.argv[1])
start = time.perf_counter()
api.create_commit(sys.argv[1], [CommitOperationAdd("w.safetensors", sys.argv[2])],
                  commit_message="xet")
print(time.perf_counter() - start)
"""


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """Serve a hub from a process of its own; yield the address."""
    command = [sys.executable, "-m", "zoo", "hub", "serve", "--dir", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait()


@contextmanager
def nginx(folder: Path, file: Path) -> Iterator[str]:
    """Serve one file with nginx; yield its address."""
    (folder / "www").mkdir(parents=True)
    (folder / "www" / file.name).symlink_to(file)
    for path in (folder, *folder.parents):  # its worker is another user
        if path.stat().st_uid == os.getuid() and str(path).startswith(tempfile.gettempdir() + "/"):
            path.chmod(0o755)
    port = 20_000 + os.getpid() % 20_000
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, port=port))
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")])
    try:
        for _ in range(100):
            if (folder / "nginx.pid").exists():
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/{file.name}"
    finally:
        process.terminate()
        process.wait()


def contestants(
    work: Path, file: Path, address: str, plain: str
) -> dict[str, Callable[[], object]]:
    """Return what is timed in turn. Every push sends new bytes, every pull has an empty cache."""
    import zoo
    from zoo.hub import exchange

    size = file.stat().st_size
    counter = iter(range(10**6))

    def curl() -> None:
        out = work / "curl.bin"
        out.unlink(missing_ok=True)
        subprocess.run(["curl", "-sf", "-o", out, plain], check=True)
        subprocess.run(["sha256sum", out], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["sync", out], check=True)
        assert out.stat().st_size == size

    def push() -> None:
        with file.open("r+b") as stream:
            stream.seek(size // 2)
            stream.write(os.urandom(64))
        name = f"me/push{next(counter)}"
        exchange.push(name, {"w.safetensors": file}, private=False, message="benchmark")

    def pull() -> None:
        shutil.rmtree(work / "cache", ignore_errors=True)
        found = zoo.pull("me/pulled")
        assert (found / "w.safetensors").stat().st_size == size  # type: ignore[operator]

    exchange.push("me/pulled", {"w.safetensors": file}, private=False, message="benchmark")
    return {"curl": curl, "pull": pull, "push": push}


def xet(file: Path, runs: int) -> list[float]:
    """Return seconds per push by the stock client in its stock mode, new bytes each time."""
    times = []
    for run in range(runs):
        with file.open("r+b") as stream:
            stream.write(os.urandom(file.stat().st_size))
        command = [sys.executable, "-c", _XET, f"me/xet{run}", str(file)]
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        times.append(float(done.stdout))
    return times


def many_files(runs: int) -> list[float]:
    """Return seconds for one commit of a thousand files."""
    from zoo.hub import exchange

    times = []
    for run in range(runs):
        files: Any = {f"{i % 20}/{i}.json": f'{{"{run}": {i}}}'.encode() for i in range(FILES)}
        start = time.perf_counter()
        exchange.push(f"me/many{run}", files, private=False, message="benchmark")
        times.append(time.perf_counter() - start)
    return times


def _ask(
    host: str, token: str, method: str, path: str, body: bytes | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, timeout=120)
    try:
        connection.request(method, path, body, {"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _one_file(name: str) -> bytes:
    """The body of a commit that adds a file with its own name in it."""
    content = base64.b64encode(name.encode()).decode()
    return (
        '{"key": "header", "value": {"summary": "add"}}\n'
        f'{{"key": "file", "value": {{"path": "{name}", "content": "{content}"}}}}\n'
    ).encode()


def crowd(address: str, token: str) -> dict[str, Any]:
    """Return what a hundred readers and 24 writers saw, and how many commits are missing."""
    acknowledged: dict[str, str] = {}
    reads, failed, stop, lock = [0], [0], threading.Event(), threading.Lock()
    ask = functools.partial(_ask, address.removeprefix("http://"), token)

    def write(number: int) -> None:
        for i in range(COMMITS):
            name = f"{number}-{i}.txt"
            status, body = ask("POST", "/api/models/me/crowd/commit/main", _one_file(name))
            with lock:
                if status == 200:
                    acknowledged[name] = body.decode().split('"commitOid":"')[1][:40]
                else:
                    failed[0] += 1

    def read() -> None:
        while not stop.is_set():
            status, body = ask("GET", "/me/crowd/resolve/main/w.bin")
            with lock:
                reads[0] += 1
                failed[0] += status != 200 or hashlib.sha256(body).hexdigest() != digest

    data = os.urandom(1 << 20)
    digest = hashlib.sha256(data).hexdigest()
    exchange.push("me/crowd", {"w.bin": data}, private=False, message="benchmark")
    readers = [threading.Thread(target=read) for _ in range(READERS)]
    writers = [threading.Thread(target=write, args=(i,)) for i in range(WRITERS)]
    start = time.perf_counter()
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    seconds = time.perf_counter() - start
    stop.set()
    for thread in readers:
        thread.join()
    missing = [
        name
        for name, commit in acknowledged.items()
        for revision in (commit, "main")
        if ask("GET", f"/me/crowd/resolve/{revision}/{name}") != (200, name.encode())
    ]
    return {
        "seconds": seconds,
        "commits_acknowledged": len(acknowledged),
        "commits_asked": WRITERS * COMMITS,
        "reads_of_1_mib": reads[0],
        "failed": failed[0],
        "missing": len(set(missing)),
    }


def main() -> int:
    """Run everything; return 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=500)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    lacking = [name for name in ("nginx", "curl", "sha256sum") if not shutil.which(name)]
    if lacking:
        print(f"skipped: {', '.join(lacking)} not installed (apt-get install nginx curl)")
        return 0
    with tempfile.TemporaryDirectory() as name:
        work = Path(name).resolve()
        from zoo.hub import server

        token = server.token(work / "hub", "me")
        file = work / "w.safetensors"
        file.write_bytes(os.urandom(options.megabytes * 10**6))
        file.chmod(0o644)
        with hub(work / "hub") as address, nginx(work / "nginx", file) as plain:
            os.environ |= {
                "HF_ENDPOINT": address,
                "HF_TOKEN": token,
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                "ZOO_CACHE": str(work / "cache"),
                "HF_HOME": str(work / "home"),
            }
            times = alternate(contestants(work, file, address, plain), options.runs)
            pull, push = ratio(times, "curl", "pull"), ratio(times, "curl", "push")
            xet_times, many = xet(file, max(options.runs // 2, 1)), many_files(3)
            together = crowd(address, token)
    return summary(options.megabytes, times, pull, push, xet_times, many, together)


def table() -> str:
    """Return the README's rows: the stored figures, each with the command that made it."""
    found = json.loads((RESULTS / "hub.json").read_text())
    times, crowd = found["seconds"], found["crowd"]
    size = found["megabytes"]

    def speed(name: str) -> str:
        return f"{size / statistics.median(times[name]):.0f} MB/s"

    def share(name: str, goal: float) -> str:
        got = found[f"{name}_of_curl"]
        missed = "" if got["median"] >= goal else ", missed"
        return (
            f"{got['median']:.0%} ({got['min']:.0%} to {got['max']:.0%}; goal {goal:.0%}{missed}): "
            f"{speed(name)} against {speed('curl')}"
        )

    rows = [
        (f"`zoo pull` of {size} MB, of curl + sha256sum + sync", share("pull", PULL_GOAL)),
        ("`zoo push` (LFS) of the same", share("push", PUSH_GOAL)),
        ("the stock client's push by Xet", speed("xet")),
        (f"{FILES} files in one commit", f"{statistics.median(times['thousand_files']):.2f} s"),
        (
            f"{READERS} clients reading, {WRITERS} committing",
            f"{crowd['commits_acknowledged']} of {crowd['commits_asked']} commits in "
            f"{crowd['seconds']:.1f} s, {crowd['missing']} missing; {crowd['reads_of_1_mib']:,} "
            f"reads of 1 MiB, {crowd['failed']} failed",
        ),
    ]
    lines = ["| claim | measured | command |", "|---|---|---|"]
    command = "`python -m benchmarks.hub`"
    for claim, measured in rows:
        lines.append(f"| {claim} | {measured} | {command} |")
        command = "same"
    return "\n".join(lines)


def summary(
    megabytes: int,
    times: dict[str, list[float]],
    pull: dict[str, float],
    push: dict[str, float],
    xet_times: list[float],
    many: list[float],
    together: dict[str, Any],
) -> int:
    """Print and store the figures; return 1 when a goal is missed."""

    def speed(seconds: list[float]) -> str:
        return f"{megabytes / sorted(seconds)[len(seconds) // 2]:.0f} MB/s"

    def share(found: dict[str, float]) -> str:
        return f"{found['median']:.0%} ({found['min']:.0%}-{found['max']:.0%})"

    rows = [
        ["", "median", "of curl + sha256sum + sync"],
        ["curl + sha256sum + sync", speed(times["curl"]), "100%"],
        ["zoo pull", speed(times["pull"]), share(pull)],
        ["zoo push (LFS)", speed(times["push"]), share(push)],
        ["stock client (Xet)", speed(xet_times), ""],
        [f"{FILES} files in one commit", f"{sorted(many)[len(many) // 2]:.2f} s", ""],
        [
            f"{READERS} readers, {WRITERS} writers",
            f"{together['commits_acknowledged']} commits in {together['seconds']:.1f} s",
            f"{together['missing']} missing, {together['failed']} failed",
        ],
    ]
    result = {
        "megabytes": megabytes,
        "seconds": {**times, "xet": xet_times, "thousand_files": many},
        "pull_of_curl": pull,
        "push_of_curl": push,
        "crowd": together,
    }
    report("hub", 1, result, rows)
    complete = together["missing"] == 0 and together["failed"] == 0
    complete = complete and together["commits_acknowledged"] == together["commits_asked"]
    return int(pull["median"] < PULL_GOAL or push["median"] < PUSH_GOAL or not complete)


if __name__ == "__main__":
    sys.exit(main())
