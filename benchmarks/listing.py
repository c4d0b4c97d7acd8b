"""`zoo list` answers in an instant: beside an interpreter that does nothing.

Goal: the median under half a second. Both are whole processes, in turn.
"""

import argparse
import subprocess
import sys

from benchmarks.common import alternate, ratio, report


def main() -> None:
    """Time both; exit with an error when the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=11)
    runs = parser.parse_args().runs

    def run(*words: str) -> None:
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)

    times = alternate(
        {
            "zoo list": lambda: run("-m", "zoo", "list"),
            "python": lambda: run("-c", "pass"),
        },
        runs,
    )
    middle = {name: sorted(values)[len(values) // 2] for name, values in times.items()}
    against = ratio(times, "zoo list", "python")
    rows = [["zoo list / python", f"{against['median']:.1f}x", ""]]
    rows += [[name, f"{1000 * seconds:.0f} ms", "median"] for name, seconds in middle.items()]
    report("listing", 1, {"against_python": against, "seconds": times}, rows)
    if middle["zoo list"] > 0.5:
        raise SystemExit("claim not met: expected half a second")


if __name__ == "__main__":
    main()
