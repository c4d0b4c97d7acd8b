"""Front ends as C source: compiled, they give the numbers of torch."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from zoo.cli import main
from zoo.data import frontends
from zoo.deploy.front_end import write_front_end

COMPILER = shutil.which("cc") or shutil.which("gcc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler on the PATH")
CALLS = """#include "fe.h"
void frame(const float *s, float before, float *f) { fe_frame(s, before, f); }
float gain(const float *s, int n) { return fe_gain(s, n); }
void quantize(const float *f, int n, float scale, int zero, int8_t *out) {
    fe_quantize(f, n, scale, zero, out);
}
"""


def compiled(folder: Path) -> Any:
    """Return the functions of `fe.h`; warnings and undefined behaviour fail."""
    (folder / "calls.c").write_text(CALLS)
    flags = ["-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    flags += ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
    command = [str(COMPILER), *flags, str(folder / "calls.c"), "-o", str(folder / "fe.so"), "-lm"]
    subprocess.run(command, check=True, timeout=120)
    library = ctypes.CDLL(str(folder / "fe.so"))
    library.gain.restype = ctypes.c_float
    return library


def floats(values: NDArray[np.float32]) -> Any:
    return values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))


def features(library: Any, front: frontends.FrontEnd, wave: NDArray[np.float32]) -> Any:
    rows = np.zeros((front.frames(len(wave)), front.width), np.float32)
    for number, row in enumerate(rows):
        start = number * front.hop
        frame = np.ascontiguousarray(wave[start : start + front.window])
        before = ctypes.c_float(wave[start - 1] if start else 0)
        library.frame(floats(frame), before, floats(row))
    return rows


def tone(seconds: float) -> NDArray[np.float32]:
    moments = np.arange(int(16000 * seconds)) / 16000
    noise = np.random.default_rng(0).standard_normal(len(moments))
    wave = 0.4 * np.sin(2 * np.pi * 700 * moments) + 0.05 * noise * moments
    return wave.astype(np.float32)


WAVES: dict[str, Callable[[], NDArray[np.float32]]] = {
    "tone": lambda: tone(1.0),
    "silence": lambda: np.zeros(16000, np.float32),
    "click": lambda: np.eye(1, 16000, 5000, dtype=np.float32)[0],
    "loud": lambda: np.sign(tone(0.5)),
}


@needs_compiler
@pytest.mark.parametrize("name", sorted(frontends.FRONT_ENDS))
def test_compiled_features_are_those_of_torch(name: str, tmp_path: Path) -> None:
    front = frontends.named(name)
    write_front_end(front, tmp_path / "fe.h")
    library = compiled(tmp_path)
    for make in WAVES.values():
        wave = make()
        wanted = front(torch.from_numpy(wave)[None])[0, 0].numpy()
        given = features(library, front, wave)
        # Decibels, and silence, magnify what float32 leaves of a sum.
        atol = 2e-4 if wave.any() and front.coefficients else 1e-3
        np.testing.assert_allclose(given, wanted, atol=atol)


@needs_compiler
@pytest.mark.skipif(shutil.which("nm") is None, reason="no binutils on the PATH")
@pytest.mark.parametrize("name", sorted(frontends.FRONT_ENDS))
def test_tables_and_buffers_are_as_large_as_the_compiler_makes_them(
    name: str, tmp_path: Path
) -> None:
    file = write_front_end(frontends.named(name), tmp_path / "fe.h")
    (tmp_path / "calls.c").write_text(CALLS)
    command = [str(COMPILER), "-std=c99", "-Os", "-c", "calls.c", "-o", "calls.o"]
    subprocess.run(command, check=True, timeout=120, cwd=tmp_path)
    listed = subprocess.run(
        ["nm", "--print-size", "calls.o"], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    sizes = {"r": 0, "b": 0}  # what is only read, what is written
    for line in listed.stdout.splitlines():
        fields = line.split()
        if len(fields) == 4 and fields[2] in sizes:
            sizes[fields[2]] += int(fields[1], 16)
    assert file.flash_bytes == sizes["r"]
    assert file.ram_bytes == sizes["b"]


COUNTED = """#include <math.h>
#include <stdint.h>
static long operations;
struct Counted {
    float value;
    Counted(float v = 0) : value(v) {}
    explicit operator int8_t() const { return (int8_t)value; }
};
static Counted operator+(Counted a, Counted b) { ++operations; return a.value + b.value; }
static Counted operator-(Counted a, Counted b) { ++operations; return a.value - b.value; }
static Counted operator*(Counted a, Counted b) { ++operations; return a.value * b.value; }
static Counted operator/(Counted a, Counted b) { return a.value / b.value; }
static Counted operator-(Counted a) { return -a.value; }
static Counted &operator+=(Counted &a, Counted b) { return a = a + b; }
static bool operator<(Counted a, Counted b) { return a.value < b.value; }
static bool operator>(Counted a, Counted b) { return a.value > b.value; }
static Counted sqrtf(Counted a) { return sqrtf(a.value); }
static Counted logf(Counted a) { return logf(a.value); }
static Counted log10f(Counted a) { return log10f(a.value); }
static Counted fabsf(Counted a) { return fabsf(a.value); }
static Counted rintf(Counted a) { return rintf(a.value); }
static Counted fmaxf(Counted a, Counted b) { return fmaxf(a.value, b.value); }
#define float Counted
#include "fe.h"
#undef float
extern "C" long counted(void) {
    Counted samples[FE_WINDOW], features[FE_WIDTH];
    operations = 0;
    fe_frame(samples, 0, features);
    return operations;
}
"""


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler on the PATH")
@pytest.mark.parametrize("name", sorted(frontends.FRONT_ENDS))
def test_operations_are_those_that_numbers_which_count_see(name: str, tmp_path: Path) -> None:
    file = write_front_end(frontends.named(name), tmp_path / "fe.h")
    (tmp_path / "counted.cc").write_text(COUNTED)
    command = ["c++", "-shared", "-fPIC", "-w", "counted.cc", "-o", "counted.so"]
    subprocess.run(command, check=True, timeout=120, cwd=tmp_path)
    library = ctypes.CDLL(str(tmp_path / "counted.so"))
    library.counted.restype = ctypes.c_long
    assert file.operations == library.counted()


@needs_compiler
def test_a_clip_is_levelled_and_rounded_as_here(tmp_path: Path) -> None:
    front = frontends.named("mfcc-micronets")
    write_front_end(front, tmp_path / "fe.h")
    library, wave = compiled(tmp_path), tone(1.0) * 0.3
    gain = library.gain(floats(wave), len(wave))
    level = frontends.at_full_scale(torch.from_numpy(wave)[None])
    np.testing.assert_allclose(wave * gain, level[0].numpy(), rtol=1e-6)
    quiet = np.full(100, 5e-5, np.float32)
    assert library.gain(floats(quiet), len(quiet)) == 1.0
    given = features(library, front, level[0].numpy()).reshape(-1)
    scale, zero = np.float32(0.3), 7
    rounded = np.zeros(len(given), np.int8)
    library.quantize(
        floats(given), len(given), ctypes.c_float(scale), zero,
        rounded.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
    )  # fmt: skip
    wanted = front(level)[0, 0].numpy().reshape(-1)
    steps = np.clip(np.rint(wanted / scale) + zero, -128, 127)
    assert (rounded == steps).mean() > 0.99
    assert np.abs(rounded - steps).max() <= 1


def test_the_command_writes_the_front_end_of_what_hears(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ears.h"
    assert main(["export", "micronet-kws-s", "--front-end", "--out", str(out)]) == 0
    assert "bytes of tables" in capsys.readouterr().out
    assert "static inline void ears_frame(" in out.read_text()
    assert main(["export", "sesr-m5-x2", "--front-end", "--out", str(out)]) != 0
    assert "has no front end" in capsys.readouterr().err
    assert main(["export", "micronet-kws-s", "--front-end", "--out", "ears.onnx"]) != 0
    assert "name it ears.h" in capsys.readouterr().err


@needs_compiler
@pytest.mark.parametrize("stem", ["ears", "int", "_", "POINTS", "звук", "3 é", "my_NAME"])
def test_a_header_compiles_whatever_its_name_and_what_is_called_of_it(
    tmp_path: Path, stem: str
) -> None:
    write_front_end(frontends.named("log-mel-mlperf"), tmp_path / f"{stem}.h")
    (tmp_path / "a.c").write_text(f'#include "{stem}.h"\nint main(void) {{ return 0; }}\n')
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    subprocess.run([str(COMPILER), *flags, str(tmp_path / "a.c")], check=True)
