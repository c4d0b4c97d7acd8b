"""The page's Looks tab: a slider per look, and the photograph changes while they move.

What belongs to one visitor lies in a folder of that visitor's session and is deleted with it.
What is computed is in `zoo.page.restyling`.
"""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from zoo.errors import MissingWeightsError, ZooError
from zoo.page import restyling
from zoo.page.cards import progress
from zoo.page.facts import cards, losses_table
from zoo.page.parts import as_given, as_uploaded, called, complaint, note, stepwise
from zoo.page.restyling import Mix, Photo, Studio
from zoo.page.tabs.contract import Context

TITLE, ORDER = "Looks", 5
REQUIRES: Mapping[str, str] = {}
CSS = """
.zoo-looks .image-container::before, .zoo-looks .image-container::after {
  position: absolute; bottom: 8px; z-index: 60; pointer-events: none; padding: 1px 8px;
  border-radius: 999px; background: rgb(15 23 42 / 72%); color: #fff; font-size: 12px; }
.zoo-looks .image-container::before { content: "photograph"; left: 8px; }
.zoo-looks .image-container::after { content: "look"; right: 8px; }
.zoo-strengths .form { display: grid; grid-template-columns: 1fr 1fr; gap: 1px;
  background: var(--border-color-primary); }
.zoo-strengths .block { min-width: 0 !important; padding: 8px 12px 10px; border: 0 !important;
  border-radius: 0 !important; }
.zoo-strengths .head { margin-bottom: 4px !important; flex-wrap: nowrap !important; }
.zoo-strengths .wrap { gap: 0 !important; }
.zoo-strengths :is(.head, .head label) { gap: 4px; }
.zoo-strengths .tab-like-container { flex: none; border: 0; box-shadow: none; }
.zoo-strengths :is(.min_value, .max_value) { display: none; }
.zoo-strengths input[type=number] { width: 2.8rem; min-width: 0; height: 1.4rem; padding: 0;
  border: 0; background: none; text-align: right; box-shadow: none; }
.zoo-strengths input[type=range] { touch-action: pan-y; }
#looks-photos .gallery { display: grid; grid-template-columns: repeat(6, 1fr); gap: 5px; }
#looks-photos .gallery-item { aspect-ratio: 1; overflow: hidden; }
#looks-photos :is(.gallery-item > span, .container) { display: block; width: 100%; height: 100%;
  max-width: none; max-height: none; }
#looks-photos img { width: 100%; height: 100%; max-width: none; object-fit: cover; }
#looks-code { contain: inline-size; width: 100%; }
#looks-code .cm-scroller { overflow-x: auto; }
.zoo-losses, .zoo-losses :is(thead, tbody, tr, th, td) { border: 0 !important; }
.zoo-losses { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
.zoo-losses :is(th, td) { padding: 4px 16px 4px 0; text-align: left;
  border-bottom: 1px solid var(--border-color-primary) !important; }
.zoo-losses thead th { color: var(--body-text-color-subdued); font-weight: 500; }
@media (max-width: 640px) {
  .zoo-looks { height: 270px !important; }
  #looks-facts span { display: none; }
}
"""
FIRST = {"looks-pencil": 1.0, "looks-film": 0.6}  # what the page opens on
_KEPT = 4  # results of a visitor: a browser may still be fetching the one before
_QUALITY = 90
_STOPPED = "<p class='zoo-note' role='status'>Stopped: there is no picture to download.</p>"
_SAVE = "() => document.querySelector('#looks-file').click()"


@dataclass(eq=False)
class Visit:
    """A visitor's files: the photograph, results lately shown, and one in full size.

    Attributes:
        folder: in Gradio's cache, where it serves files without copying them; None before the
            first.
        photo: whose file is there.
        shown: results, the oldest first.
        number: of the next file.

    """

    folder: Path | None = None
    photo: tuple[Photo, Path] | None = None
    shown: list[Path] = field(default_factory=list)
    number: int = 0

    def place(self, cache: str) -> Path:
        """Return the folder, made when it is first needed."""
        if self.folder is None or not self.folder.is_dir():
            Path(cache).mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(prefix="looks-", dir=cache))
            self.photo, self.shown = None, []
        return self.folder

    def pair(self, photo: Photo, mix: Mix, cache: str) -> tuple[str, str]:
        """Write a result, and its photograph if it is another; the oldest result goes."""
        self.place(cache)
        if self.photo is None or self.photo[0] is not photo:
            old, self.photo = self.photo, (photo, self._written(photo.shown(photo.pixels)))
            if old:
                old[1].unlink(missing_ok=True)
        self.shown.append(self._written(mix.picture))
        while len(self.shown) > _KEPT:
            self.shown.pop(0).unlink(missing_ok=True)
        return str(self.photo[1]), str(self.shown[-1])

    def _written(self, image: Image.Image) -> Path:
        assert self.folder is not None
        path = self.folder / f"{self.number}.jpg"
        self.number += 1
        _write(image, path)
        return path

    def full(self, file: Path) -> str:
        """Forget the full-size results before this one."""
        kept = {file, *self.shown, *([self.photo[1]] if self.photo else [])}
        for other in set(file.parent.iterdir()) - kept:
            other.unlink(missing_ok=True)
        return str(file)

    def forget(self) -> None:
        """Delete everything."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def _write(image: Image.Image, path: Path) -> None:
    """JPEG takes a fifth of PNG's time and bytes; the difference cannot be seen."""
    image.save(path, quality=_QUALITY, subsampling=0)


class Page:
    """The events of the tab.

    Raises:
        MissingWeightsError: no looks are shipped.

    """

    def __init__(self, folder: Path) -> None:
        self.studio, self.folder, self.cache = Studio(), folder, ""
        self.names = list(self.studio.looks)
        self.examples = restyling.examples()
        self.first = {name: FIRST.get(name, 0.0) for name in self.names}
        photo = self.studio.photo(self.examples[0])
        for _ in range(3):  # PyTorch's first runs are slow
            self.opening = self.studio.mix(photo, self.first)
        self.files = folder / "photograph.jpg", folder / "look.jpg"
        _write(photo.shown(photo.pixels), self.files[0])
        _write(self.opening.picture, self.files[1])

    def facts(self, mix: Mix) -> str:
        """Return the HTML of the facts below the picture."""
        return cards(mix, self.studio)

    def restyle(self, picture: str | None, visit: Visit | None, *strengths: float) -> Any:
        """Restyle a photograph, at most 512 pixels wide and high, in a mix of looks.

        Returns (photograph, result), the facts as HTML, and the lines of Python that give the
        same in full size.
        """
        asked = dict(zip(self.names, strengths, strict=True))
        visit = visit or Visit()
        try:
            photo = self.studio.photo(_given(picture))
            mix = self.studio.mix(photo, asked)
        except ZooError as error:
            raise complaint(str(error)) from error
        return (
            visit.pair(photo, mix, self.cache),
            self.facts(mix),
            restyling.code(mix.strengths),
            visit,
        )

    def restyle_in_full(self, picture: str | None, visit: Visit | None, *strengths: float) -> Any:
        """Restyle a photograph in full size; yield how far it is, then the file."""
        visit = visit or Visit()
        folder = visit.place(self.cache)
        asked = dict(zip(self.names, strengths, strict=True))
        try:
            file = yield from stepwise(
                self.studio.in_full(_given(picture), asked, folder),
                lambda done, total: (gr.skip(), progress(done, total), gr.skip()),
            )
        except ZooError as error:
            raise complaint(str(error)) from error
        yield visit.full(file), "", visit

    def losses(self, is_open: bool, picture: str | None, *strengths: float) -> Any:
        """Return what two or more looks lose to each other, and how they interfere."""
        if not is_open or picture is None:
            return gr.skip(), gr.skip()
        try:
            photo = self.studio.photo(_given(picture))
            found = self.studio.losses(photo, dict(zip(self.names, strengths, strict=True)))
        except ZooError as error:
            raise complaint(str(error)) from error
        image = None if found is None else found.picture
        return losses_table(found, self.studio), gr.update(
            value=image, visible=image is not None or "hidden"
        )

    def clear(self, visit: Visit | None) -> Any:
        """Show nothing: what is shown always belongs to the picture beside it."""
        self.gone(visit)
        return None, "", "", None

    def gone(self, visit: Visit | None) -> None:
        """Delete a visitor's files."""
        if visit is not None:
            visit.forget()


def _given(picture: str | None) -> Path:
    if picture is None:
        raise complaint("There is no picture yet: drop one in, paste one, or take an example.")
    return Path(picture)


def build(context: Context) -> None:
    """Lay out the picture, the sliders and the facts, and connect them."""
    try:
        page = Page(context.folder)
    except MissingWeightsError as error:
        note(f"{error}")
        return
    visit = gr.State(None, delete_callback=page.gone)
    with gr.Row(equal_height=False):
        with gr.Column(scale=7, min_width=320):
            view = gr.ImageSlider(
                (str(page.files[0]), str(page.files[1])), label="Photograph and look",
                show_label=False, interactive=False, buttons=["fullscreen"], height=548,
                max_height=548, elem_id="looks-view", elem_classes="zoo-looks",
            )  # fmt: skip
            page.cache = view.GRADIO_CACHE
        with gr.Column(scale=4, min_width=300):
            sliders = _sliders(page)
            with gr.Row():
                reset = gr.Button("Reset", min_width=80, size="md", elem_id="looks-reset")
                stop = gr.Button("Stop", min_width=60, size="md", elem_id="looks-stop")
                save = gr.Button(
                    "Download full size", variant="primary", min_width=180, scale=2, size="md",
                    elem_id="looks-save",
                )  # fmt: skip
            done = gr.HTML("", elem_id="looks-progress")
            file = gr.DownloadButton(visible="hidden", elem_id="looks-file")
            picture, chosen = _photo(page)
    facts = gr.HTML(page.facts(page.opening), elem_id="looks-facts")
    with gr.Accordion("Use this: three lines of Python", open=False, elem_id="looks-use"):
        code = gr.Code(
            restyling.code(page.opening.strengths), language="python", show_label=False,
            interactive=False, lines=4, elem_id="looks-code",
        )  # fmt: skip
    mixing = _mixing(page, picture, sliders)
    _connect(page, [picture, visit, *sliders], [view, facts, code, visit], chosen, reset, mixing)
    full = save.click(
        called(page.restyle_in_full, ["picture", "visit", *page.names]), [picture, visit, *sliders],
        [file, done, visit], api_name="restyle_in_full", trigger_mode="once",
        concurrency_limit=1, concurrency_id="looks-large", show_progress_on=[done],
    )  # fmt: skip
    quiet: Mapping[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    full.success(None, js=_SAVE, **quiet)
    full.failure(lambda: "", None, done, **quiet)
    stop.click(lambda: _STOPPED, None, done, cancels=[full], **quiet)


def _sliders(page: Page) -> list[gr.Slider]:
    with gr.Column(elem_classes="zoo-strengths", elem_id="looks-strengths"):
        sliders = [
            gr.Slider(
                0, 1, page.first[name], step=0.05, label=look.label, buttons=[],
                elem_id=f"strength-{name}", min_width=120,
            )
            for name, look in page.studio.looks.items()
        ]  # fmt: skip
    return [as_given(slider) for slider in sliders]  # the studio says what is wrong with one


def _photo(page: Page) -> tuple[gr.Image, Any]:
    picture = gr.Image(
        str(page.examples[0]), label="Your photograph", type="filepath", height=150,
        sources=["upload", "clipboard"], buttons=[], elem_id="looks-photo",
    )  # fmt: skip
    as_uploaded(picture)
    examples = gr.Examples(
        [[str(file)] for file in page.examples], [picture], label="Or take one of these",
        cache_examples=False, api_visibility="private", elem_id="looks-photos",
    )  # fmt: skip
    return picture, examples.load_input_event


def _mixing(page: Page, picture: gr.Image, sliders: list[gr.Slider]) -> Mapping[str, Any]:
    """Lay out the fold that says what looks lose to each other; return how to fill it."""
    is_open = gr.State(False)
    with gr.Accordion(
        "Two looks or more: what each loses", open=False, elem_id="looks-mixing"
    ) as fold:
        table = gr.HTML(elem_id="looks-losses")
        image = gr.Image(
            label="Interference", show_label=False, interactive=False, format="png",
            visible="hidden", buttons=["fullscreen"], elem_id="looks-interference",
        )  # fmt: skip
    call: Mapping[str, Any] = {
        "fn": page.losses, "inputs": [is_open, picture, *sliders], "outputs": [table, image],
        "trigger_mode": "always_last", "concurrency_limit": 1, "concurrency_id": "looks-large",
        "show_progress_on": [table], "api_visibility": "private",
    }  # fmt: skip
    fold.expand(lambda: True, None, is_open, api_visibility="private").then(**call)
    fold.collapse(lambda: False, None, is_open, api_visibility="private")
    gr.on([slider.release for slider in sliders], **call)
    return call


def _connect(
    page: Page,
    inputs: list[Any],
    outputs: list[Any],
    chosen: Any,
    reset: gr.Button,
    mixing: Mapping[str, Any],
) -> None:
    """Follow the sliders: while one answer is under way only the newest choice waits."""
    picture, visit, *sliders = inputs
    call: Mapping[str, Any] = {
        "fn": called(page.restyle, ["picture", "visit", *page.names]),
        "inputs": inputs, "outputs": outputs, "trigger_mode": "always_last",
        "concurrency_limit": 1, "concurrency_id": "looks", "show_progress": "hidden",
    }  # fmt: skip
    gr.on([slider.input for slider in sliders], api_name="restyle", **call)
    zeros = reset.click(
        lambda: [0.0] * len(sliders), None, sliders, api_visibility="private",
        show_progress="hidden",
    )  # fmt: skip
    for event in (picture.upload, chosen.then, zeros.then):
        run = event(api_visibility="private", **call)
        run.failure(page.clear, visit, outputs, api_visibility="private", show_progress="hidden")
        run.success(**mixing)
