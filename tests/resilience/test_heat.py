"""The heat map's words: rates as people write them."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from zoo.resilience.heat import Panel, heat_map, percent


@pytest.mark.parametrize(
    ("most", "written"), [(100.0, "100 %"), (99.7, "100 %"), (12.3, "12 %"), (0.25, "0.25 %")]
)
def test_the_legend_ends_at_the_largest_rate(tmp_path, monkeypatch, most, written):
    texts, draw = [], ImageDraw.ImageDraw.text

    def noted(self, place, text, *rest, **more):
        texts.append(text)
        return draw(self, place, text, *rest, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noted)
    panel = Panel("weight", ["stem"], [1.0], np.array([[0.0, most]]))
    heat_map(tmp_path / "map.png", [panel], "a title")
    assert texts[-3:] == ["0 %", percent(most / 4), written]
    assert not [text for text in texts if "e+" in text]


def test_names_of_layers_do_not_touch_the_name_of_their_register(tmp_path):
    panel = Panel("accumulator", ["a" * 28], [1.0], np.ones((1, 32)))
    heat_map(tmp_path / "map.png", [panel], "a title")
    with Image.open(tmp_path / "map.png") as picture:
        left = np.asarray(picture.convert("L"))[105:260, 40:316]  # of the cells
    inked = (left < 128).any(1)
    assert (np.diff(inked.astype(int), prepend=0) == 1).sum() == 2  # two lines, apart
