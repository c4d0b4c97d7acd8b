"""Pictures as outputs of the page that appear in Gradio's cache in one piece."""

import tempfile
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from PIL import Image

Output = TypeVar("Output", bound=gr.Image | gr.ImageSlider)


def in_one_piece(output: Output) -> Output:
    """Let the pictures of an output be filed by renaming.

    Gradio names a picture after its content and writes it over, in place, for everybody who is
    shown the same one: whoever is fetching it at that moment gets half of it. What comes as a
    file it copies aside and renames, and only if it is not there yet.
    """
    show: Any = output.postprocess

    def postprocess(value: Any) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            if isinstance(value, tuple):
                return show(tuple(_filed(output, each, folder) for each in value))
            return show(_filed(output, value, folder))

    output.postprocess = postprocess  # type: ignore[method-assign]
    return output


def _filed(output: gr.Image | gr.ImageSlider, value: Any, folder: str) -> Any:
    if not isinstance(value, Image.Image):
        return value
    file = Path(folder, "image.png")
    value.save(file)
    return output.move_resource_to_block_cache(file)
