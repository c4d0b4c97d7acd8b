"""Fifty visitors of the page's tab Looks, mixing for five minutes: does anybody see another's?

Every visitor asks for one of 96 pictures (six photographs, sixteen mixes), waits for the answer,
looks at it for a second, and asks for the next. An answer counts as right when, of all 96, it is
nearest to the one that was asked for. Goal: none is wrong, and none is lost.
"""

import argparse
import itertools
import multiprocessing
import random
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.common import report
from zoo.page import restyling
from zoo.page.app import serve

THUMB = 32  # pixels: what pictures are told apart by
PAUSE_SECONDS = 1.0
PATIENCE_SECONDS = 120
Asked = tuple[int, int]  # number of the photograph, number of the mix


def thumb(picture: Image.Image) -> NDArray[np.float32]:
    """Return a picture small, as one row of numbers."""
    return np.asarray(picture.convert("RGB").resize((THUMB, THUMB)), np.float32).ravel()


def mixes(names: list[str]) -> list[dict[str, float]]:
    """Return sixteen mixes: each look alone, and eight pairs of halves."""
    pairs = list(itertools.combinations(names, 2))[:: len(names) // 2][: len(names)]
    return [{name: 1.0} for name in names] + [dict.fromkeys(pair, 0.5) for pair in pairs]


def visit(
    address: str, photos: list[Path], strengths: list[list[float]], seed: int, until: float,
    answers: list[tuple[float, Asked, NDArray[np.float32] | str]],
) -> None:  # fmt: skip
    """Ask until the time is over; put down seconds, what was asked, and the answer."""
    from gradio_client import Client, handle_file

    patient = {"timeout": PATIENCE_SECONDS}  # all arrive at once, and each opens the page first
    client, dice = Client(address, verbose=False, httpx_kwargs=patient), random.Random(seed)
    while time.monotonic() < until:
        asked = dice.randrange(len(photos)), dice.randrange(len(strengths))
        start = time.monotonic()
        try:
            photo = handle_file(str(photos[asked[0]]))
            result = client.predict(photo, *strengths[asked[1]], api_name="/restyle")
            with Image.open(result[0][1]) as picture:
                answer: NDArray[np.float32] | str = thumb(picture)
        except Exception as error:  # whatever it is: the answer is lost, and counted
            answer = f"{type(error).__name__}: {error}"
        answers.append((time.monotonic() - start, asked, answer))
        time.sleep(PAUSE_SECONDS)


def crowd(
    address: str, photos: list[Path], strengths: list[list[float]], visitors: int, seconds: float,
    results: Any,
) -> None:  # fmt: skip
    """Be all visitors at once, in a process apart from the page's."""
    answers: list[tuple[float, Asked, NDArray[np.float32] | str]] = []
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(target=visit, args=(address, photos, strengths, n, until, answers))
        for n in range(visitors)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put(answers)


def main() -> int:
    """Serve, visit, compare; return 1 when an answer was wrong or lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=300)
    args = parser.parse_args()
    studio, photos = restyling.Studio(), restyling.examples()
    names = list(studio.looks)
    table = mixes(names)
    expected = {
        (p, m): thumb(studio.mix(studio.photo(photo), mix).picture)
        for p, photo in enumerate(photos)
        for m, mix in enumerate(table)
    }
    keys, rows = list(expected), np.stack(list(expected.values()))
    strengths = [[mix.get(name, 0.0) for name in names] for mix in table]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    places = (serve(block=False), photos, strengths, args.visitors, args.seconds, results)
    child = context.Process(target=crowd, args=places)
    child.start()
    answers = results.get()
    child.join()
    lost = sorted({answer for _, _, answer in answers if isinstance(answer, str)})
    wrong = sum(
        keys[int(np.abs(rows - answer).mean(1).argmin())] != asked
        for _, asked, answer in answers
        if not isinstance(answer, str)
    )
    missing = sum(isinstance(answer, str) for _, _, answer in answers)
    waits = sorted(seconds for seconds, _, _ in answers)
    facts = {
        "visitors": args.visitors, "seconds": args.seconds, "asked": len(answers),
        "wrong": wrong, "lost": missing, "reasons": lost,
        "median_s": statistics.median(waits), "slowest_in_twenty_s": waits[len(waits) * 19 // 20],
    }  # fmt: skip
    table_rows = [
        [key, str(round(v, 2) if isinstance(v, float) else v)] for key, v in facts.items()
    ]
    report("page_looks_visitors", torch.get_num_threads(), facts, table_rows)
    return int(bool(wrong or missing))


if __name__ == "__main__":
    sys.exit(main())
