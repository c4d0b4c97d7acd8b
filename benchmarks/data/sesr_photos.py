"""Make the folder of pictures that the shipped SESR weights learned from.

BSDS500 is small, and its pictures have been JPEGs for twenty years. `sesr_photos.toml` lists
photographs that Debian's background packages ship under free licences; here they are shrunk until
they are sharp, and put beside the pictures of BSDS500. Nothing is downloaded: fetch the packages
with `apt-get download NAME=VERSION`, those of other releases from Debian's snapshot archive.

Run: python -m benchmarks.data.sesr_photos --packages DEBS --bsds BSDS500 --out DIR
"""

import argparse
import hashlib
import io
import shutil
import subprocess
import tarfile
import tomllib
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from PIL import Image

from zoo.data import images
from zoo.data.resize import resize
from zoo.errors import MismatchError
from zoo.files import replacing_folder

LIST = Path(__file__).with_suffix(".toml")
# (at least so long a side, shrunk to): what a camera or an enlargement blurred is not learned.
SIDES = ((3000, 1600), (2000, 1280))  # smaller ones: to two thirds


def packages() -> list[dict[str, Any]]:
    """Return the packages: name, version, sha256, license, folder, photos."""
    found: list[dict[str, Any]] = tomllib.loads(LIST.read_text("utf-8"))["package"]
    return found


def find(folder: Path, package: dict[str, Any]) -> Path:
    """Return the package's file in a folder, told by its content.

    Raises:
        SystemExit: it is not there.

    """
    for path in sorted(folder.glob(f"{package['name']}*.deb")):
        if hashlib.sha256(path.read_bytes()).hexdigest() == package["sha256"]:
            return path
    wanted = f"{package['name']}={package['version']}"
    raise SystemExit(
        f"{folder} has no {wanted} (SHA-256 {package['sha256'][:12]}...).\n"
        f"Fetch it: apt-get download {wanted}"
    )


def target(size: tuple[int, int]) -> float:
    """Return what a photograph of this size is shrunk by."""
    longest = max(size)
    return next((to for least, to in SIDES if longest >= least), longest * 2 // 3) / longest


def photos(folder: Path, package: dict[str, Any], out: Path) -> int:
    """Write a package's photographs into `out` as PNG; return how many."""
    command = ["dpkg-deb", "--fsys-tarfile", str(find(folder, package))]
    content = subprocess.run(command, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for photo in package["photos"]:
            # The package's digest was checked: what is listed is there.
            stream = cast(IO[bytes], archive.extractfile(f"./{package['folder']}/{photo}"))
            picture = images.read(stream.read(), photo)
            rgb = np.asarray(images.to_pillow(images.Picture(picture.pixels)).convert("RGB"))
            name = Path(photo).parts[0].rsplit(".", 1)[0]  # a file's, or its folder's
            shrunk = Image.fromarray(resize(rgb, target((rgb.shape[1], rgb.shape[0]))))
            # After BSDS500 in name order: the same pictures of it are held out as without them.
            shrunk.save(out / f"wallpaper_{name}.png")
    return len(package["photos"])


def main() -> None:
    """Make the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, required=True, help="a folder of .deb files")
    parser.add_argument("--bsds", type=Path, required=True, help="the pictures of BSDS500")
    parser.add_argument("--out", type=Path, required=True, help="the training folder to make")
    args = parser.parse_args()
    if args.out.exists():
        raise SystemExit(f"{args.out} exists; give --out a folder that does not")
    if shutil.which("dpkg-deb") is None:
        raise SystemExit("dpkg-deb opens the packages and is not here; type: apt-get install dpkg")
    try:
        pictures = images.find(args.bsds)
    except MismatchError as error:
        raise SystemExit(str(error)) from error
    for package in packages():  # say what is missing before minutes of work
        find(args.packages, package)
    with replacing_folder(args.out) as out:
        count = sum(photos(args.packages, package, out) for package in packages())
        for picture in pictures:
            (out / picture.name).write_bytes(picture.read_bytes())
    print(f"{args.out}: {count} photographs, {len(pictures)} of {args.bsds}")


if __name__ == "__main__":
    main()
