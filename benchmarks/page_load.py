"""Fifty visitors of the page for five minutes, on mixed tabs: errors, memory, and who waits.

The page runs in a process of its own, as `zoo serve` starts it; the visitors are threads of this
one. Each asks one of six tabs, waits for the answer, looks at it for some seconds, and asks again.
Every question has one right answer, known from a visitor alone, so that crossed answers are seen.
Goals: nothing lost or crossed; memory at the end at most 5 % above that at a fifth of the time.
A visitor alone has asked everything before: what is loaded on first use is no leak.
"""

import argparse
import collections
import hashlib
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import report
from zoo.page import detecting, listening, looking, restyling

PATIENCE_SECONDS = 300
PAUSE_SECONDS = 4.0
MOST_GROWTH = 1.05
NEAR_SECONDS = 10  # memory is the median of so many seconds before and after: it breathes
START = "from zoo.page.app import serve; serve()"
Question = tuple[str, tuple[Any, ...], Callable[[Any], str]]


def questions() -> list[Question]:
    """Return endpoints, what they are given, and what of their answers is always the same."""
    from gradio_client import handle_file

    def digest(file: str) -> str:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()

    photos, looks = restyling.examples()[:3], 8
    asked: list[Question] = []
    for number, photo in enumerate(photos):
        mix = tuple(float(look == number) for look in range(looks))
        asked.append(("/restyle", (handle_file(photo), *mix), lambda made: digest(made[0][1])))
    for file in looking.EXAMPLES:
        given = (handle_file(file), "mlperf-tiny-ic")
        asked.append(("/classify", given, lambda made: str(made[0]["label"])))
    for file in sorted(listening.EXAMPLES.glob("*.wav")):
        given = (handle_file(file), "micronet-kws-s")
        asked.append(("/listen", given, lambda made: str(made[0]["label"])))
    for file in detecting.EXAMPLES:
        boxed = (handle_file(file), "ran-i-detector", 0.35)
        asked.append(("/detect", boxed, lambda made: str(made[2]["items"])))
    for words in ("kws", "detector", "x4"):
        asked.append(("/find", (words, "any", "any", False, False), lambda made: str(made[0])))
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        mixed = (handle_file(looking.EXAMPLES[0]), "sum", *weights)
        asked.append(("/adapters_picture", mixed, lambda made: digest(made[1])))
    return asked


def resident(process: int) -> int:
    """Return the bytes of memory that a process holds."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found, "no VmRSS: this benchmark needs Linux"
    return int(found[1]) * 1024


def watched(process: int, until: float) -> list[tuple[float, int]]:
    """Return when a process held how many bytes, twice a second until then."""
    held = []
    while time.monotonic() < until:
        held.append((time.monotonic(), resident(process)))
        time.sleep(0.5)
    return held


def computed(process: int) -> float:
    """Return the seconds of a processor that a process has used: they do not depend on others."""
    stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(map(int, stat[11:13])) / os.sysconf("SC_CLK_TCK")


def started() -> tuple["subprocess.Popen[str]", str, dict[str, float]]:
    """Start the page; return its process, its address, and seconds to serving and to an answer."""
    start = time.perf_counter()
    page = subprocess.Popen([sys.executable, "-c", START], stdout=subprocess.PIPE, text=True)
    assert page.stdout is not None
    line = page.stdout.readline()
    facts = {"start_s": time.perf_counter() - start, "start_computed_s": computed(page.pid)}
    address = line.split()[4]
    urllib.request.urlopen(address).read()
    return page, address, facts | {"first_page_s": time.perf_counter() - start}


def visit(
    address: str, asked: list[Question], right: list[str], seed: int, until: float,
    answers: list[tuple[str, float, str]],
) -> None:  # fmt: skip
    """Ask until the time is over; put down the endpoint, seconds, and what was wrong."""
    from gradio_client import Client

    dice = random.Random(seed)
    try:
        client = Client(address, verbose=False, httpx_kwargs={"timeout": PATIENCE_SECONDS})
    except Exception as error:  # whatever it is: the visitor is lost, and counted
        answers.append(("open", 0.0, f"{type(error).__name__}: {error}"))
        return
    while time.monotonic() < until:
        number = dice.randrange(len(asked))
        name, given, kept = asked[number]
        start = time.monotonic()
        try:
            made = kept(client.predict(*given, api_name=name))
            wrong = "" if made == right[number] else "crossed"
        except Exception as error:  # likewise
            wrong = f"{type(error).__name__}: {error}"
        answers.append((name, time.monotonic() - start, wrong))
        time.sleep(dice.uniform(0, 2 * PAUSE_SECONDS))


def alone(address: str, asked: list[Question]) -> tuple[list[str], dict[str, float]]:
    """Return the right answers, and how long each endpoint takes for a visitor alone."""
    from gradio_client import Client

    client = Client(address, verbose=False, httpx_kwargs={"timeout": PATIENCE_SECONDS})
    right, times = [], collections.defaultdict[str, list[float]](list)
    for name, given, kept in asked:
        for _ in range(3):
            start = time.monotonic()
            made = kept(client.predict(*given, api_name=name))
            times[name].append(time.monotonic() - start)
        right.append(made)
    return right, {name: statistics.median(found) for name, found in times.items()}


def main() -> int:
    """Start, visit, compare; return 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=300)
    args = parser.parse_args()
    asked = questions()
    page, address, opened = started()
    try:
        right, idle = alone(address, asked)
        answers: list[tuple[str, float, str]] = []
        begin = time.monotonic()
        places = (address, asked, right)
        threads = [
            threading.Thread(target=visit, args=(*places, n, begin + args.seconds, answers))
            for n in range(args.visitors)
        ]
        for thread in threads:
            thread.start()
        held = watched(page.pid, begin + args.seconds)
        for thread in threads:
            thread.join()
    finally:
        page.terminate()
    early, late = (
        statistics.median(n for at, n in held if abs(at - begin - middle) < NEAR_SECONDS)
        for middle in (args.seconds / 5, args.seconds - NEAR_SECONDS)
    )
    wrong = collections.Counter(said for *_, said in answers if said)
    facts: dict[str, Any] = {
        "visitors": args.visitors, "seconds": args.seconds, "answers": len(answers),
        "wrong": dict(wrong), **opened,
        "resident_early_bytes": early, "resident_late_bytes": late, "growth": late / early,
    }  # fmt: skip
    for name in idle:
        waits = sorted(seconds for one, seconds, _ in answers if one == name)
        late_s = waits[len(waits) * 19 // 20] if waits else None
        facts[name] = {"answers": len(waits), "alone_s": idle[name], "p95_s": late_s}
    rows = [[key, f"{v:.3g}" if isinstance(v, float) else str(v)] for key, v in facts.items()]
    report("page_load", torch.get_num_threads(), facts, rows)
    return int(bool(wrong) or late > MOST_GROWTH * early)


if __name__ == "__main__":
    sys.exit(main())
