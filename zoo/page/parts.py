"""What the tabs of the page share: complaints, notes, pictures in one piece and as given."""

import functools
import html
import inspect
import tempfile
from abc import ABCMeta
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from PIL import Image

# For `gr.HTML`: what has `data-ref` is chosen by a click or the keyboard, and the event
# `select` has it as `ref`.
CHOOSE = """
const chosen = (event) => {
  const mark = event.target.closest('[data-ref]');
  if (mark) trigger('select', {ref: mark.dataset.ref});
};
element.addEventListener('click', chosen);
element.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && event.target.closest('svg')) chosen(event);
});
"""
Output = TypeVar("Output", bound=gr.Image | gr.ImageSlider)
Result = TypeVar("Result")
Input = TypeVar("Input", bound=gr.components.Component)


def complaint(text: str) -> gr.Error:
    """Return the error that tells a visitor, in a corner of the page, what did not work.

    It stands between tags, never in one: quotes stay as they are, for programs that read it.
    """
    return gr.Error(
        html.escape(text, quote=False), title="That did not work", print_exception=False
    )


def note(text: str) -> gr.HTML:
    """Lay out a sentence in small grey letters."""
    return gr.HTML(f"<p class='zoo-note'>{html.escape(text)}</p>")


@functools.cache
def _variant(kind: type, method: str, change: Callable[[type], Callable[..., Any]]) -> type:
    """Return a component's class with another method.

    Gradio makes a visitor's component anew, by its class, when an event updates more of it than
    its value, as a click on an example does: a method of the object would be lost.
    """
    own = {method: change(kind), "is_template": True, "__module__": kind.__module__}
    # Gradio's own way to make a class would write a file of types beside this one.
    made: type = ABCMeta.__new__(type(kind), kind.__name__, (kind,), own)
    return made


def in_one_piece(output: Output) -> Output:
    """Let the pictures of an output appear in Gradio's cache in one piece, by renaming.

    Gradio names a picture after its content and overwrites it in place for everybody who is
    shown the same one, so whoever is fetching it at that moment gets half of it. A picture that
    comes as a file it copies aside and renames, and only if it is not there yet.
    """
    kind: Any = type(output)
    output.__class__ = _variant(kind, "postprocess", _renaming)
    return output


def _renaming(kind: Any) -> Callable[..., Any]:
    def postprocess(self: Any, value: Any) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            if isinstance(value, tuple):
                return kind.postprocess(self, tuple(_filed(self, each, folder) for each in value))
            return kind.postprocess(self, _filed(self, value, folder))

    return postprocess


def _filed(output: gr.Image | gr.ImageSlider, value: Any, folder: str) -> Any:
    if not isinstance(value, Image.Image):
        return value
    file = Path(folder, "image.png")
    value.save(file)
    return output.move_resource_to_block_cache(file)


def as_uploaded(control: Input) -> Input:
    """Let a control hand over the uploaded file itself.

    Gradio would open it first: a file that is not a picture would end in a traceback, and one of
    16 bits or with a rotation would arrive changed; sounds it converts by a program of its own.
    """
    control.__class__ = _variant(type(control), "preprocess", _path)
    return control


def as_given(control: Input) -> Input:
    """Let a control hand over what it holds, whatever that is.

    Gradio would refuse an emptied slider, or one beyond its ends, with a traceback, and make a
    text of a list; whoever computes says what is wrong with it instead.
    """
    control.__class__ = _variant(type(control), "preprocess", _payload)
    return control


def _path(kind: type) -> Callable[..., Any]:
    return lambda self, payload: None if payload is None else payload.path


def _payload(kind: type) -> Callable[..., Any]:
    return lambda self, payload: payload


def once(opened: Callable[..., Any]) -> Callable[..., Any]:
    """Return the event of a visitor who opens a tab for the first time."""
    seen = gr.State(False)
    then: Callable[..., Any] = opened(_first, seen, seen, api_visibility="private").success
    return then


def _first(seen: bool) -> bool:
    if seen:
        raise gr.Error("seen before", visible=False, print_exception=False)
    return True


def stepwise(
    work: Generator[tuple[int, int], None, Result], shown: Callable[[int, int], Any]
) -> Generator[Any, None, Result]:
    """Yield what is shown for each step of a work; return what it returns."""
    while True:
        try:
            step = next(work)
        except StopIteration as end:
            result: Result = end.value
            return result
        yield shown(*step)


def called(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """Return a function whose arguments programs know by these names, in this order.

    A tab with a slider for each adapter does not know at writing time how many there are.
    """

    def call(*given: Any) -> Any:
        return function(*given)

    def stream(*given: Any) -> Any:
        yield from function(*given)

    # Gradio looks at the outermost function for whether it yields.
    outermost = stream if inspect.isgeneratorfunction(function) else call
    named = functools.wraps(function)(outermost)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    said = [inspect.Parameter(name.replace("-", "_"), kind) for name in names]
    named.__signature__ = inspect.Signature(said)  # type: ignore[attr-defined]
    return named
