"""The tests of huggingface_hub itself, run against `zoo hub serve`.

The client's source distribution holds its tests. They are fetched (nothing of them is kept here),
their constants are pointed at a hub in a temporary folder, and those in scope are run; what is out
of scope, and why, is in tests/hub/client_suite.toml.

Goal: at least 98 % of the tests in scope pass.

    python -m benchmarks.hub_client_suite [--sdist huggingface_hub-2.4.0.tar.gz] [-k WORD]
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import site
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.common import report
from benchmarks.hub import hub
from zoo.hub import server

ROOT = Path(__file__).resolve().parent.parent
GOAL = 0.98
SECONDS = 120  # of one test
VERSION = importlib.metadata.version("huggingface_hub")
# What the suite needs beside what is here: its own extra `testing`, without linters and stubs.
PACKAGES = ["pytest-mock", "pytest-vcr", "pytest-asyncio", "pytest-timeout", "jedi", "authlib>=1.8",
            "itsdangerous", "soundfile", "duckdb"]  # fmt: skip


def fetched(folder: Path, sdist: Path | None) -> Path:
    """Return the unpacked source distribution of the client that is installed."""
    if sdist is None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary",
                   ":all:", "--dest", str(folder), f"huggingface_hub=={VERSION}"]  # fmt: skip
        subprocess.run(command, check=True)
        sdist = next(folder.glob("huggingface_hub-*.tar.gz"))
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.glob("huggingface_hub-*/"))


def interpreter(folder: Path) -> Path:
    """Return a Python that has what this one has, and what the suite needs."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / "bin" / "python"
    inside = subprocess.run(
        [python, "-c", "import site; print(site.getsitepackages()[0])"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (Path(inside.stdout.strip()) / "outer.pth").write_text("\n".join(site.getsitepackages()))
    subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


def laid_out(source: Path, folder: Path) -> Path:
    """Return a folder with the tests as a package, our fixtures among them, and their marks."""
    run = folder / "run"
    shutil.copytree(source / "tests", run / "tests")
    (run / "tests" / "__init__.py").touch()
    shutil.copy(ROOT / "benchmarks" / "peers" / "hub_client_fixtures.py",
                run / "tests" / "conftest.py")  # fmt: skip
    settings = tomllib.loads((source / "pyproject.toml").read_text())
    marks = settings["tool"]["pytest"]["ini_options"]["markers"]
    names = "\n    ".join(mark.partition(":")[0] for mark in marks)
    (run / "pytest.ini").write_text(f"[pytest]\nmarkers =\n    {names}\n")
    return run


def scope() -> dict[str, list[str]]:
    """Return reason -> names of the tests that are out of scope."""
    table = tomllib.loads((ROOT / "tests" / "hub" / "client_suite.toml").read_text())
    return {entry["reason"]: entry["tests"] for entry in table["out"]}


def run_suite(python: Path, run: Path, folder: Path, word: str | None) -> list[dict[str, Any]]:
    """Return name, outcome and first line of the error of every test that was run."""
    store = folder / "hub"
    names = {
        "TOKEN": server.token(store, "__DUMMY_HUB_USER__", orgs=("valid_org_hub",)),
        "OTHER_TOKEN": server.token(store, "DVUser"),
        "ENTERPRISE_TOKEN": server.token(store, "EnterpriseAdmin", orgs=("EnterpriseOrgPrivate",)),
    }
    out = [name for tests in scope().values() for name in tests]
    (folder / "out.json").write_text(json.dumps(out))
    report_file, asked = folder / "report.xml", folder / "asked.json"
    with hub(store) as address:
        environment = {
            **os.environ,
            "HF_ENDPOINT": address,
            "HF_HOME": str(folder / "home"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "0",
            "NO_PROXY": "127.0.0.1",
            "ZOO_CLIENT_SUITE": json.dumps({"ENDPOINT_STAGING": address, **names}),
            "ZOO_CLIENT_SCOPE": str(folder / "out.json"),
            "ZOO_CLIENT_ASKED": str(asked),
        }
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "PYTHONPATH"):
            environment.pop(name, None)
        ignored = [f"--ignore=tests/{name}" for name in out if name.endswith(".py")]
        command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", "-q", "-W", "ignore",
                   f"--timeout={SECONDS}", f"--junitxml={report_file}", *ignored]  # fmt: skip
        command += ["-k", word] if word else []
        subprocess.run(command, cwd=run, env=environment, check=False)
    sent = {name.partition("::")[2] for name in json.loads(asked.read_text())}
    return [_case(element, sent) for element in ET.parse(report_file).iter("testcase")]


def _case(element: ET.Element, sent: set[str]) -> dict[str, Any]:
    file, _, inner = element.get("classname", "").removeprefix("tests.").partition(".")
    name = "::".join(filter(None, [inner.replace(".", "::"), element.get("name", "")]))
    outcome, said = "passed", ""
    for child in element:
        if child.tag in ("failure", "error", "skipped"):
            outcome = "skipped" if child.tag == "skipped" else "failed"
            said = (child.get("message") or "").partition("\n")[0][:200]
    return {"test": f"{file}.py::{name}", "outcome": outcome, "said": said, "asks": name in sent}


def main() -> None:
    """Run the suite, print the counts, store them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sdist", type=Path, help="the source distribution; default: fetch it")
    parser.add_argument("-k", dest="word", help="only tests with this in their names; not stored")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="client-suite-") as name:
        folder = Path(name)
        source = fetched(folder, arguments.sdist)
        cases = run_suite(interpreter(folder), laid_out(source, folder), folder, arguments.word)
    # A test may appear twice: once for itself, once for what is cleared up after it.
    worst: dict[str, dict[str, Any]] = {}
    for case in cases:
        if worst.get(case["test"], {}).get("outcome") != "failed":
            worst[case["test"]] = case
    counts = Counter(case["outcome"] for case in worst.values())
    asking = Counter(case["outcome"] for case in worst.values() if case["asks"])
    share = counts["passed"] / (counts["passed"] + counts["failed"])
    failed = sorted(
        (case["test"], case["said"]) for case in worst.values() if case["outcome"] == "failed"
    )
    for test, said in failed:
        print(f"failed: {test}: {said}")
    rows = [["huggingface_hub", "in scope", "passed", "failed", "skipped", "share"]]
    for label, row in ((VERSION, counts), ("of them ask the hub", asking)):
        total = row["passed"] + row["failed"]
        rows.append([label, str(total), *(str(row[key]) for key in ("passed", "failed", "skipped")),
                     f"{row['passed'] / max(1, total):.1%}"])  # fmt: skip
    result = {
        "huggingface_hub": VERSION,
        "counts": dict(counts),
        "asking_the_hub": dict(asking),
        "share": round(share, 4),
        "goal": GOAL,
        "failed": [{"test": test, "said": said} for test, said in failed],
    }
    if not arguments.word:
        report("hub_client_suite", 1, result, rows)
    else:
        print(rows)
    sys.exit(share < GOAL)


if __name__ == "__main__":
    main()
