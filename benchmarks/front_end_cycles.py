"""What a frame of each front end takes on a Cortex-M4F: the rates that `zoo estimate` prices by.

The exported C source is compiled for the Cortex-M4F (`arm-none-eabi-gcc`, newlib) and run in QEMU,
which writes down every instruction. Each is given its cycles of the table of TI's SWCU192 (tables
3-25 and 3-27, zero wait states), twice: loads and stores of one cycle and branches that refill in
one, as a pipeline at its best; of two and three, as at its worst. Operations are those that
`zoo export --front-end` prints. Run, with both programs on the PATH:

    python -m benchmarks.front_end_cycles
"""

import argparse
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks.common import report
from zoo.data.frontends import FRONT_ENDS, FrontEnd
from zoo.deploy.front_end import write_front_end

FLAGS = "-mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16 -std=c99 -nostartfiles"
LIBRARIES = "-Wl,--gc-sections -ffunction-sections -fdata-sections -lm -lc -lgcc"
LEVELS = ("Os", "O2")
PROGRAM = """#include "fe.h"
static float wave[2048], out[256];
static int number;
int *__errno(void) { return &number; }
void __attribute__((noinline)) begin(void) { __asm volatile("nop"); }
void __attribute__((noinline)) finish(void) { __asm volatile("nop"); }
void __attribute__((noinline)) work(void) { fe_frame(wave, 0.1f, out); }
int __attribute__((noinline)) start(void) {
    unsigned x = 1;
    for (int i = 0; i < 2048; ++i) {
        x = x * 1664525u + 1013904223u;
        wave[i] = (float)(int)x * 1e-10f;
    }
    begin();
    work();
    finish();
    return out[0] > 1e30f;
}
__attribute__((naked, used)) void _start(void) {
    __asm volatile("bl start\\n mov r0, #0\\n mov r7, #1\\n svc #0\\n");
}
"""
Instruction = tuple[str, str]  # its name and its operands


def output(*command: str) -> str:
    """Return what a program prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def listing(program: Path) -> dict[int, Instruction]:
    """Return the instructions of a program by their addresses."""
    lines = output("arm-none-eabi-objdump", "-d", "--no-show-raw-insn", str(program)).splitlines()
    found = [re.match(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)$", line) for line in lines]
    return {int(m[1], 16): (m[2].partition(".")[0], m[3]) for m in found if m}


def cycles(instruction: Instruction, taken: bool) -> tuple[int, int]:
    """Return the least and the most cycles of an instruction; `taken`: a branch that jumps."""
    name, operands = instruction
    if name.startswith(("vdiv", "vsqrt")):
        return 14, 14
    if name.startswith(("vfma", "vfms", "vmla", "vmls", "vfnm", "vnml")):
        return 3, 3
    if name.startswith(("ldm", "stm", "push", "pop", "vpush", "vpop", "vldm", "vstm")):
        count = 1 + registers(operands)
        return (count + 1, count + 3) if "pc" in operands else (count, count)
    if name.startswith(("vldr", "vstr")):
        return (2, 3) if operands.startswith("d") else (1, 2)
    if name.startswith(("ldrd", "strd")):
        return 3, 3
    if name.startswith(("ldr", "str")):
        return 1, 2
    if name in ("sdiv", "udiv"):
        return 2, 12
    if name in ("tbb", "tbh"):
        return 3, 5
    if name in ("cbz", "cbnz") or re.fullmatch(r"b(l|x|lx|eq|ne|[a-z]{2})?", name):
        return (2, 4) if taken else (1, 1)
    return (2, 2) if name.startswith("vmov") and operands.count(",") > 1 else (1, 1)


def registers(operands: str) -> int:
    """Return how many words a list of registers has."""
    count = 0
    for part in re.search(r"\{(.*)\}", operands)[1].split(","):  # type: ignore[index]
        ends = [int(n) if n else 0 for n in re.findall(r"[rsd](\d*)", part)] or [0]
        count += (ends[-1] - ends[0] + 1) * (2 if "d" in part else 1)
    return count


def measured(front: FrontEnd, level: str, folder: Path) -> dict[str, int]:
    """Return instructions, cycles and bytes of code of one frame."""
    (folder / "main.c").write_text(PROGRAM)
    program, trace = folder / "frame.elf", folder / "trace"
    files = [f"-{level}", f"-I{folder}", str(folder / "main.c"), "-o", str(program)]
    subprocess.run(["arm-none-eabi-gcc", *FLAGS.split(), *files, *LIBRARIES.split()], check=True)
    options = ["-cpu", "max", "-singlestep", "-d", "exec,nochain", "-D", str(trace)]
    subprocess.run(["qemu-arm", *options, str(program)], check=True)
    code = listing(program)
    after = dict(zip(sorted(code), sorted(code)[1:], strict=False))
    symbols = [line.split() for line in output("arm-none-eabi-nm", "-S", str(program)).splitlines()]
    place = {fields[-1]: int(fields[0], 16) & ~1 for fields in symbols}
    size = {fields[-1]: int(fields[1], 16) for fields in symbols if len(fields) == 4}
    run = [int(n, 16) for n in re.findall(r"\[[0-9a-f]+/([0-9a-f]+)/", trace.read_text())]
    first, last = run.index(place["begin"]), run.index(place["finish"])
    found = [
        cycles(code[here], taken=there != after.get(here))
        for here, there in zip(run[first:last], run[first + 1 : last + 1], strict=True)
    ]
    least, most = (sum(column) for column in zip(*found, strict=True))
    return {
        "instructions": len(found), "least_cycles": least, "most_cycles": most,
        "code_bytes": size["work"],
    }  # fmt: skip


def main() -> None:
    """Count, store, and show."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    for program in ("arm-none-eabi-gcc", "qemu-arm"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is not on the PATH; Debian: gcc-arm-none-eabi, qemu-user")
    results: dict[str, dict[str, dict[str, int]]] = {}
    slow, fast = [], []
    rows = [["front end", "operations", "flag", "instructions", "cycles", "bytes of code"]]
    for name, front in FRONT_ENDS.items():
        with tempfile.TemporaryDirectory() as place:
            file = write_front_end(front, Path(place) / "fe.h")
            counted = {
                key: getattr(file, key) for key in ("operations", "flash_bytes", "ram_bytes")
            }
            results[name] = {"counted": counted}
            for level in LEVELS:
                found = results[name][level] = measured(front, level, Path(place))
                slow.append(file.operations / found["most_cycles"])
                fast.append(file.operations / found["least_cycles"])
                span = f"{found['least_cycles']:,} to {found['most_cycles']:,}"
                shown = [f"{found['instructions']:,}", span, f"{found['code_bytes']:,}"]
                rows.append([name, f"{file.operations:,}", f"-{level}", *shown])
    least, most = min(slow), max(fast)
    versions = {
        "gcc": output("arm-none-eabi-gcc", "-dumpfullversion").strip(),
        "qemu": output("qemu-arm", "--version").split()[2],
    }
    spread = {"least_per_cycle": least, "most_per_cycle": most}
    report("front_end_cycles", 1, {"versions": versions, **spread, "front_ends": results}, rows)
    print(f"{least:.4f} to {most:.4f} operations a cycle")


if __name__ == "__main__":
    main()
