"""The kernels in C, built with the machine's compiler at first use and kept in the cache."""

import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from zoo.cache import root
from zoo.files import replacing

FOLDER = Path(__file__).parent
SOURCES = ("codebook_matvec.c", "codebook_int8.c", "int4_int8.c", "decoder.c", "entropy.c")
# -ffp-contract=off: sums must not depend on whether a processor can fuse them.
FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-shared", "-fPIC")
_VARIANTS = (("-march=native", "-fopenmp"), ("-mcpu=native",), ("-march=native",), ())


def built(compiler: str) -> Path:
    """Return the library, from the cache if sources, compiler and processor are the same.

    Raises:
        ValueError: the compiler refuses every variant; its last message.

    """
    texts = [path.read_bytes() for path in sorted(FOLDER.glob("*.[ch]"))]
    parts = (texts, compiler, _version(compiler), _processor(), sys.byteorder)
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:24]
    suffix = ".dll" if sys.platform == "win32" else ".so"
    path = root() / "kernels" / key / f"kernels{suffix}"
    if path.is_file():
        return path
    problem = ""
    for variant in _VARIANTS:
        with tempfile.TemporaryDirectory(prefix="zoo-kernel-") as folder:
            made = Path(folder) / f"kernel{suffix}"
            sources = [str(FOLDER / name) for name in SOURCES]
            words = [compiler, *FLAGS, *variant, "-o", str(made), *sources]
            if sys.platform != "win32":
                words.append("-lm")
            answer = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
            if answer.returncode == 0:
                with replacing(path) as temporary:
                    shutil.copyfile(made, temporary)
                return path
            problem = answer.stderr.strip().splitlines()[-1] if answer.stderr.strip() else "failed"
    raise ValueError(problem)


def _version(compiler: str) -> str:
    return subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=False, timeout=30
    ).stdout


def _processor() -> str:
    """Return what -march=native depends on: a cache may be shared between machines."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        lines = information.read_text().splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {platform.processor()}"
