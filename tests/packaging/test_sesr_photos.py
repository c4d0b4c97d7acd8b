"""The folder of pictures that SESR's weights learned from, made of Debian packages."""

import hashlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks.data import sesr_photos
from zoo.data import images


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of two photographs, and the list that names them."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("needs dpkg-deb")
    content = tmp_path / "content"
    photos = content / "usr/share/backgrounds"
    (content / "DEBIAN").mkdir(parents=True)
    fields = ("Package: walls", "Version: 1", "Architecture: all", "Maintainer: x <x@x>")
    (content / "DEBIAN/control").write_text("\n".join((*fields, "Description: x", "")))
    (photos / "Dune").mkdir(parents=True)
    Image.fromarray(np.full((200, 300, 3), 90, np.uint8)).save(photos / "sea.png")
    Image.fromarray(np.full((1000, 2500, 3), 90, np.uint8)).save(photos / "Dune/2500x1000.png")
    debs = tmp_path / "debs"
    debs.mkdir()
    command = ["dpkg-deb", "--build", str(content), str(debs / "walls_1_all.deb")]
    subprocess.run(command, check=True, capture_output=True)
    entry = {
        "name": "walls",
        "version": "1",
        "sha256": hashlib.sha256((debs / "walls_1_all.deb").read_bytes()).hexdigest(),
        "folder": "usr/share/backgrounds",
        "photos": ["sea.png", "Dune/2500x1000.png"],
    }
    monkeypatch.setattr(sesr_photos, "packages", lambda: [entry])
    return debs


def test_photographs_are_shrunk_and_put_beside_the_others(package, tmp_path, monkeypatch, capsys):
    bsds = tmp_path / "bsds"
    bsds.mkdir()
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(bsds / "train_1.jpg")
    out = tmp_path / "out"
    words = ["", "--packages", str(package), "--bsds", str(bsds), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    sesr_photos.main()
    assert "2 photographs, 1 of" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="out exists; give --out a folder that does not"):
        sesr_photos.main()
    words[4], words[6] = str(tmp_path / "nowhere"), str(tmp_path / "new")
    with pytest.raises(SystemExit, match="nowhere"):
        sesr_photos.main()
    assert not (tmp_path / "new").exists()
    sizes = {path.name: images.read(path).pixels.shape[1::-1] for path in out.iterdir()}
    assert sizes == {
        "train_1.jpg": (50, 40),
        "wallpaper_Dune.png": (1280, 512),
        "wallpaper_sea.png": (200, 134),
    }


def test_another_build_of_a_package_is_refused(package, tmp_path):
    deb = package / "walls_1_all.deb"
    deb.write_bytes(deb.read_bytes() + b"\0")
    with pytest.raises(SystemExit, match=r"has no walls=1 .*\n.*apt-get download walls=1"):
        sesr_photos.photos(package, sesr_photos.packages()[0], tmp_path)


def test_every_photograph_is_listed_once_with_its_licence():
    names = [photo for entry in sesr_photos.packages() for photo in entry["photos"]]
    assert len(names) == len(set(names)) == 86
    assert all(entry["license"] for entry in sesr_photos.packages())
