"""A caching proxy of other authors (`olah` of PyPI) in front of the hub: a second client."""

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from tests.limits import HANGS_SECONDS

PULL = """
import hashlib, sys
from huggingface_hub import HfApi
api = HfApi()
assert api.model_info("me/repo").sha == sys.argv[1]
assert "w.safetensors" in api.list_repo_files("me/repo")
folder = api.snapshot_download("me/repo", revision=sys.argv[1])
with open(folder + "/w.safetensors", "rb") as stream:
    print(hashlib.file_digest(stream, "sha256").hexdigest())
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("olah-cli"), reason="no olah-cli on the PATH")
def test_olah_pulls(serve, wire, client_environment, tmp_path):
    served = serve()
    client = wire(served.address, served.token())
    client("POST", "/api/repos/create", {"name": "repo"})
    data = os.urandom(5_000_000)
    commit = client.commit_large("me/repo", "w.safetensors", data).json["commitOid"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    upstream = served.address.removeprefix("http://")
    mirror = f"127.0.0.1:{port}"
    proxy = subprocess.Popen(
        [shutil.which("olah-cli"), "--host", "127.0.0.1", "--port", str(port),
         *("--hf-scheme", "http", "--hf-netloc", upstream, "--hf-lfs-netloc", upstream),
         *("--mirror-scheme", "http", "--mirror-netloc", mirror, "--mirror-lfs-netloc", mirror),
         *("--repos-path", str(tmp_path / "olah"), "--log-path", str(tmp_path / "log"))],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{mirror}/"):
                break
            time.sleep(0.1)
        done = subprocess.run(
            [sys.executable, "-c", PULL, commit],
            env=client_environment(f"http://{mirror}"),
            capture_output=True,
            text=True,
            timeout=HANGS_SECONDS,
            check=False,
        )
    finally:
        proxy.terminate()
        proxy.wait(20)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == hashlib.sha256(data).hexdigest()
