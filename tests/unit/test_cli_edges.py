"""What shells hand over: closed streams, empty variables, and names that are not UTF-8."""

import os
import subprocess
import sys

import pytest

import zoo
from zoo.cli import main
from zoo.errors import MismatchError
from zoo.registry import refs

ODD = os.fsdecode(b"b\xff\xfed")
POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no such names and streams")


@POSIX
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-"])
@pytest.mark.parametrize("words", ["list", "list --json", "show sesr-m3-x2", "show gone"])
def test_closed_streams_are_no_fault(words, closed):
    done = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m zoo {words} {closed}'], capture_output=True, text=True
    )
    assert done.returncode == (1 if "gone" in words else 0)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        "export sesr-m3-x2 --out",
        "compress ./x --method rtn --out",
        "compress ./x --method rtn --out out --data",
        "train sesr-m3-x2 --data x --out",
        "train sesr-m3-x2 --out x --data",
        "import x.gguf --out",
        "run sesr-m3-x2 x.png --out",
        "adapter train x --data y --out",
        "evaluate sesr-m3-x2 --data",
        "card sesr-m3-x2 --out",
    ],
)
def test_an_empty_variable_does_not_mean_this_folder(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main([*words.split(), ""])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "is empty; expected a name" in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@POSIX
def test_names_that_are_not_utf8_are_refused_where_weights_lie(tmp_path, capsys):
    folder = tmp_path / ODD
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    for ref in (folder, str(folder)):
        with pytest.raises(
            MismatchError, match=r"'.*b\\udcff\\udcfed' has a name that is not UTF-8"
        ):
            refs.parse(ref)
    for words in (
        ["show", str(folder)],
        ["compress", str(folder), "--method", "rtn", "--out", str(tmp_path / "out")],
        ["compress", "./x", "--method", "rtn", "--out", str(folder / "out")],
        ["adapter", "info", str(folder)],
    ):
        assert main(words) == 1
        said = capsys.readouterr().err
        assert "has a name that is not UTF-8, and weights are not read or written there" in said
        assert said.count("\n") == 1


@POSIX
def test_a_run_is_refused_before_it_trains(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    from PIL import Image

    for number in range(3):
        Image.new("RGB", (64, 64), (40 * number, 90, 20)).save(photos / f"{number}.png")
    with pytest.raises(MismatchError, match="not UTF-8"):
        zoo.train("sesr-m3-x2", tmp_path / ODD, data=str(photos), device="cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]


@POSIX
def test_pictures_may_have_such_names(tmp_path):
    from PIL import Image

    source, out = tmp_path / f"{ODD}.png", tmp_path / f"{ODD}-x2.png"
    Image.new("RGB", (16, 16), (10, 90, 20)).save(source)
    done = subprocess.run(
        [sys.executable, "-m", "zoo", "run", "sesr-m3-x2", str(source), "--out", str(out)],
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert os.fsencode(out) in done.stdout
    with Image.open(out) as made:
        assert made.size == (32, 32)
