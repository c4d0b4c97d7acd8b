"""Photographs in a mix of looks: what the page's Looks tab computes, without the page."""

import threading
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.data import images
from zoo.data.made import finished
from zoo.errors import MismatchError, MissingWeightsError
from zoo.page import facts, restyling
from zoo.page.lowrank import LowRank
from zoo.page.restyling import Studio
from zoo.page.tabs import looks as tab
from zoo.page.tabs.contract import Context
from zoo.registry import catalogue
from zoo.tasks import picture as task

OIL, FILM, NIGHT = "looks-oil", "looks-film", "looks-night"


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio()


def by_hand(photo: restyling.Photo, strengths: dict[str, float]) -> Image.Image:
    """A mix by a network of its own."""
    model = zoo.load("looks", adapter=strengths) if strengths else zoo.load("looks")
    made = task.restyle(model, task.to_tensor(photo.pixels))[0].permute(1, 2, 0).numpy()
    return photo.shown(task.to_bytes(made))


def file(folder: Path, image: Image.Image, name: str, **options: object) -> Path:
    image.save(folder / name, **options)
    return folder / name


def noise(size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    "strengths", [{}, {OIL: 1.0}, {OIL: 0.35, NIGHT: 0.8}], ids=["none", "one", "two"]
)
def test_a_mix_is_what_its_adapters_make(studio: Studio, strengths: dict[str, float]) -> None:
    photo = studio.photo(restyling.examples()[0])
    mix = studio.mix(photo, strengths)
    assert mix.picture == by_hand(photo, strengths)
    assert mix.strengths == strengths
    assert mix.before == mix.after
    assert bool(mix.changed) == bool(strengths)
    assert not mix.scaled
    assert mix.forward_ms > 0
    assert studio.mix(photo, {}).picture == by_hand(photo, {})  # nothing was left in


def test_looks_change_a_photograph(studio: Studio) -> None:
    photo = studio.photo(restyling.examples()[0])
    plain = np.asarray(studio.mix(photo, {}).picture).astype(float)
    for name in studio.looks:
        other = np.asarray(studio.mix(photo, {name: 1}).picture).astype(float)
        assert np.abs(other - plain).mean() > 2, name


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({OIL: -0.1}, "expected 0 to 1"),
        ({OIL: 1.1}, "expected 0 to 1"),
        ({OIL: float("nan")}, "expected 0 to 1"),
        ({OIL: "1"}, "expected a number"),
        ({OIL: True}, "expected a number"),
        ({"looks-sepia": 1}, "there is no look 'looks-sepia'"),
    ],
    ids=["below", "above", "nan", "text", "bool", "unknown"],
)
def test_wrong_strengths_are_refused(studio: Studio, wrong: dict[str, object], says: str) -> None:
    photo = studio.photo(restyling.examples()[0])
    with pytest.raises(MismatchError, match=says):
        studio.mix(photo, wrong)
    assert studio.mix(photo, {OIL: None}).strengths == {}  # an emptied slider


def test_all_sliders_at_one_give_a_picture_still(studio: Studio) -> None:
    photo = studio.photo(restyling.examples()[0])
    mix = studio.mix(photo, dict.fromkeys(studio.looks, 1))
    assert mix.scaled
    assert sum(mix.strengths.values()) == pytest.approx(restyling.MOST_STRENGTH, abs=0.01)
    assert "further than" in facts.cards(mix, studio)
    small = [
        np.asarray(Image.fromarray(pixels).convert("L").resize((24, 18), Image.Resampling.BOX))
        for pixels in (photo.pixels, np.asarray(mix.picture))
    ]
    assert np.std(small[1]) > 8  # not one grey
    assert np.corrcoef(small[0].ravel(), small[1].ravel())[0, 1] > 0.7  # the scene, not noise


def test_pictures_of_every_kind(studio: Studio, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    deep = Image.fromarray(np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000)
    kinds = {
        "palette.png": (noise((40, 30)).convert("P"), {}),
        "inks.jpg": (noise((40, 30)).convert("CMYK"), {}),
        "clear.png": (noise((40, 30)).convert("RGBA"), {}),
        "grey.png": (noise((40, 30)).convert("LA"), {}),
        "bit.png": (noise((40, 30)).convert("1"), {}),
        "turned.jpg": (noise((40, 30)), {"exif": exif}),
        "pixel.png": (noise((1, 1)), {}),
        "line.png": (noise((3000, 1)), {}),
        "odd.png": (noise((601, 399)), {}),
        "deep.png": (deep, {}),
    }
    sizes = {"turned.jpg": (30, 40), "line.png": (512, 1), "odd.png": (512, 340)}
    for name, (image, options) in kinds.items():
        source = file(tmp_path, image, name, **options)
        mix = studio.mix(studio.photo(source), {OIL: 0.5})
        assert mix.picture.size == sizes.get(name, image.size), name
        full = images.read(finished(studio.in_full(source, {OIL: 0.5}, tmp_path)))
        expected = sizes[name] if name == "turned.jpg" else image.size
        assert full.pixels.shape[1::-1] == expected, name
        assert (full.alpha is not None) == (image.mode in ("RGBA", "LA")), name


def test_what_is_transparent_is_shown_on_white(studio: Studio, tmp_path: Path) -> None:
    clear = Image.new("RGBA", (16, 16), (200, 0, 0, 0))
    mix = studio.mix(studio.photo(file(tmp_path, clear, "clear.png")), {NIGHT: 1})
    assert np.asarray(mix.picture).min() == 255


def test_what_is_no_picture_is_refused_in_words(studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("milk, bread")
    with pytest.raises(MismatchError, match=r"notes\.jpg is not a picture"):
        studio.photo(tmp_path / "notes.jpg")
    whole = restyling.examples()[0].read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MismatchError, match=r"half\.jpg cannot be read"):
        studio.photo(tmp_path / "half.jpg")
    with pytest.raises(MismatchError, match="gone"):
        studio.photo(tmp_path / "nothing.jpg")


def test_another_picture_under_the_same_name_is_another(studio: Studio, tmp_path: Path) -> None:
    first = studio.photo(file(tmp_path, noise((20, 20)), "a.png"))
    assert studio.photo(tmp_path / "a.png") is first
    assert studio.photo(file(tmp_path, noise((24, 20)), "a.png")).given == (24, 20)


def test_previews_do_not_pile_up(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restyling, "_KEPT", 2)
    for k in range(4):
        studio.photo(file(tmp_path, noise((8 + k, 8)), f"{k}.png"))
    assert len(studio._photos) == 2


@pytest.mark.parametrize("strengths", [{}, {OIL: 0.5}, {OIL: 0.35, FILM: 1.0}])
def test_the_three_lines_give_the_same_picture(
    studio: Studio, strengths: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photo.jpg").write_bytes(restyling.examples()[1].read_bytes())
    shown = finished(studio.in_full(tmp_path / "photo.jpg", strengths, tmp_path))
    with Image.open(shown) as image:
        expected = np.asarray(image)
    shown.unlink()
    lines = restyling.code(strengths)
    assert len([line for line in lines.splitlines() if line]) <= 3
    monkeypatch.chdir(tmp_path)
    exec(lines, {})
    with Image.open(tmp_path / "photo-looks.png") as image:
        assert np.array_equal(np.asarray(image), expected)


def test_a_picture_too_large_for_the_page(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restyling, "MOST_PIXELS", 100)
    with pytest.raises(MismatchError, match="11 x 10 pixels"):
        finished(studio.in_full(file(tmp_path, noise((11, 10)), "a.png"), {}, tmp_path))


def test_what_each_look_loses(studio: Studio) -> None:
    photo = studio.photo(restyling.examples()[0])
    assert studio.losses(photo, {OIL: 1}) is None
    assert "two sliders" in facts.losses_table(None, studio)
    losses = studio.losses(photo, {OIL: 1, NIGHT: 0.5})
    assert losses is not None
    assert set(losses.psnr_db) == {OIL, NIGHT}
    assert all(4 < value < 80 for value in losses.psnr_db.values())
    assert losses.picture.width > 100
    table = facts.losses_table(losses, studio)
    assert "Oil" in table
    assert " dB" in table


def test_full_size_comes_tile_by_tile_and_others_come_between(
    studio: Studio, tmp_path: Path
) -> None:
    source, switcher = file(tmp_path, noise((600, 90)), "wide.png"), studio._large.switcher
    places = [tmp_path / name for name in ("alone", "oil", "night")]
    for place in places:
        place.mkdir()
    alone = finished(studio.in_full(source, {OIL: 1.0}, places[0])).read_bytes()
    before = switcher.verify()
    work = studio.in_full(source, {OIL: 1.0}, places[1])
    assert next(work) == (1, 2)
    assert switcher.verify() == before  # the look is in for a tile alone
    other = studio.in_full(source, {NIGHT: 1.0}, places[2])
    next(other)
    assert finished(work).read_bytes() == alone
    other.close()  # as for who presses Stop
    assert not list(places[2].iterdir())
    assert switcher.verify() == before


def test_everybody_sees_their_own_choice(studio: Studio) -> None:
    photo = studio.photo(restyling.examples()[0])
    choices = [{OIL: 1.0}, {NIGHT: 1.0}, {OIL: 0.5, FILM: 0.5}, {}]
    expected = [by_hand(photo, each) for each in choices]
    wrong: list[int] = []

    def visitor(me: int) -> None:
        for turn in range(4):
            k = (me + turn) % len(choices)
            if studio.mix(photo, choices[k]).picture != expected[k]:
                wrong.append(k)

    threads = [threading.Thread(target=visitor, args=(me,)) for me in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_low_rank_factors_have_the_size_of_a_look() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 1))
    before = [p.clone() for p in model.parameters()]
    low_rank = LowRank(model, 100, 2)
    assert low_rank.rank == 2  # of 8 + 27 and 4 + 8 numbers
    assert low_rank.values == 94
    ms, off = low_rank.in_and_out([1.0, 0.5], 3)
    assert ms > 0
    assert 0 <= off <= 8 * 27 + 32
    assert low_rank.in_and_out([], 1)[1] == 0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_peft_merges_into_convolutions() -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 1))
    low_rank = LowRank(model, 100, 1)
    ms = low_rank.peft_ms()
    assert ms is not None
    assert ms > 0
    assert low_rank.peft_ms() == ms  # measured once


def test_examples_are_small_and_have_a_source() -> None:
    files = restyling.examples()
    assert len(files) == 6
    sources = (files[0].parent / "SOURCES.md").read_text(encoding="utf-8")
    for path in files:
        assert path.name in sources
        assert path.stat().st_size < 64_000
        assert max(images.read(path).pixels.shape) > restyling.PREVIEW - 1


def test_without_weights_the_tab_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "WEIGHTS", tmp_path)
    with pytest.raises(MissingWeightsError, match="zoo adapter joint looks"):
        restyling.shipped()
    with gr.Blocks() as page:
        tab.build(Context(tmp_path))
    (shown,) = page.blocks.values() if len(page.blocks) == 1 else list(page.blocks.values())[-1:]
    assert "zoo adapter joint looks" in str(shown.value)


def test_a_visitors_files_go(tmp_path: Path, studio: Studio) -> None:
    visit, photo = tab.Visit(), studio.photo(restyling.examples()[0])
    for k in range(6):
        before, after = visit.pair(photo, studio.mix(photo, {OIL: k / 10}), str(tmp_path))
        assert Path(before).exists()
        assert Path(after).exists()
    folder = Path(after).parent
    assert len(list(folder.iterdir())) == 1 + 4  # the photograph, and results lately shown
    for strength in (0.2, 0.4):
        full = visit.full(
            finished(studio.in_full(restyling.examples()[1], {OIL: strength}, folder))
        )
        assert Path(full).exists()
    visit.full(finished(studio.in_full(restyling.examples()[2], {}, folder)))
    assert not Path(full).exists()
    other = studio.photo(restyling.examples()[1])
    assert visit.pair(other, studio.mix(other, {}), str(tmp_path))[0] != before
    assert not Path(before).exists()
    visit.forget()
    assert list(tmp_path.iterdir()) == []
