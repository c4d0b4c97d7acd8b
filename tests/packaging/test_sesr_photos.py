"""The folders of pictures that SESR's weights learned from, made of packages and clones."""

import hashlib
import io
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from benchmarks.data import patterns, sesr_photos
from zoo.data import images
from zoo.registry.licences import commercial


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
        "kind": "deb",
        "name": "walls",
        "version": "1",
        "sha256": hashlib.sha256((debs / "walls_1_all.deb").read_bytes()).hexdigest(),
        "folder": "usr/share/backgrounds",
        "photos": [{"file": "sea.png"}, {"file": "Dune/2500x1000.png"}],
    }
    monkeypatch.setattr(sesr_photos, "packages", lambda listed: [entry])
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


def test_another_build_of_a_package_is_refused(package):
    deb = package / "walls_1_all.deb"
    deb.write_bytes(deb.read_bytes() + b"\0")
    with pytest.raises(SystemExit, match=r"has no walls=1 .*\n.*apt-get download walls=1"):
        sesr_photos.opened(package, sesr_photos.packages(sesr_photos.LIST)[0])


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A wheel and a clone of one photograph each, and the list that names them."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((60, 90, 3), 90, np.uint8)).save(buffer, "PNG")
    photo, folder = buffer.getvalue(), tmp_path / "sources"
    clone = folder / "pictures"
    clone.mkdir(parents=True)
    with zipfile.ZipFile(folder / "samples-1-py3-none-any.whl", "w") as archive:
        archive.writestr("samples/data/cat.png", photo)
    (clone / "png").mkdir()
    (clone / "png/dog.png").write_bytes(photo)
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x", "-C", str(clone)]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"], ["rev-parse", "HEAD"]):
        done = subprocess.run([*git, *words], check=True, capture_output=True, text=True)
    wheel = {
        "kind": "wheel",
        "name": "samples",
        "version": "1",
        "sha256": hashlib.sha256(next(folder.glob("*.whl")).read_bytes()).hexdigest(),
        "folder": "samples/data",
        "photos": [{"file": "cat.png"}],
    }
    cloned = {
        "kind": "git",
        "name": "somebody/pictures",
        "version": done.stdout.strip(),
        "sha256": hashlib.sha256(photo).hexdigest(),
        "folder": "png",
        "photos": [{"file": "dog.png"}],
    }
    found = {sesr_photos.FREE: [wheel, cloned]}
    monkeypatch.setattr(sesr_photos, "packages", found.__getitem__)
    return folder


def test_the_free_folder_holds_patterns_and_nothing_else(sources, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sesr_photos, "PATTERNS", 1)
    out = tmp_path / "out"
    words = ["", "--packages", str(sources), "--free", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    sesr_photos.main()
    assert capsys.readouterr().out == f"{out}: 2 photographs, 1 patterns\n"
    names = sorted(path.name for path in out.iterdir())
    assert names == ["wallpaper_cat.png", "wallpaper_dog.png", "weave_000.png"]
    monkeypatch.setattr(sys, "argv", [*words, "--bsds", str(tmp_path)])
    with pytest.raises(SystemExit):
        sesr_photos.main()


@pytest.mark.parametrize(
    ("number", "fetch"),
    [
        (0, r"has no samples=1 .*\n.*pip download --no-deps samples==1"),
        (1, r"has no somebody/pictures=.*\n.*git clone https://github.com/somebody/pictures"),
    ],
    ids=["wheel", "clone"],
)
def test_what_has_other_pictures_is_refused(sources, number, fetch):
    entry = sesr_photos.packages(sesr_photos.FREE)[number]
    with pytest.raises(SystemExit, match=fetch):
        sesr_photos.opened(sources, entry | {"sha256": "0" * 64})
    with pytest.raises(SystemExit, match=fetch):
        sesr_photos.opened(sources.parent, entry)


def test_a_pattern_is_a_function_of_its_number():
    first, again, other = (patterns.picture(number) for number in (7, 7, 8))
    assert first.size == patterns.SIZE
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert np.asarray(first).std() > 10


@pytest.mark.parametrize(
    ("listed", "count"), [(sesr_photos.LIST, 86), (sesr_photos.FREE, 216)], ids=["all", "free"]
)
def test_every_photograph_is_listed_once_with_its_licence(listed, count):
    entries = sesr_photos.packages(listed)
    photos = [photo for entry in entries for photo in entry["photos"]]
    # As the folder names them: two of one name would be one picture.
    names = {photo["file"].split("/")[0].rsplit(".", 1)[0] for photo in photos}
    assert len(photos) == len(names) == count
    assert all(photo["license"] for photo in photos)
    assert all(len(entry["sha256"]) == 64 for entry in entries)


def test_a_company_may_use_every_free_photograph():
    photos = [p for entry in sesr_photos.packages(sesr_photos.FREE) for p in entry["photos"]]
    assert [photo for photo in photos if not commercial(photo["license"])] == []
    assert all(photo["author"] for photo in photos)
