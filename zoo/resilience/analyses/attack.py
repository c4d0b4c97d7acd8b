"""Attacks on pictures, and pipelines that purify them: how many answers stay right."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from zoo.errors import MismatchError
from zoo.files import replacing
from zoo.resilience import defending
from zoo.resilience.attacking import PixelModel
from zoo.resilience.attacks.contract import parse
from zoo.resilience.pipelines import Pipeline, pipeline
from zoo.resilience.results import Estimate, Reliability
from zoo.resilience.specimen import Specimen

SUMMARY = "accuracy on pictures that an attacker has changed, with and without a defence"
CHOSEN_BY = "attack"
_SHOWN, _SIDE, _GAP = 6, 128, 8  # pictures of the strip, their side in pixels, what is between


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of attacks.

    Attributes:
        attack: fgsm, pgd, apgd or di-fgsm, with its settings, e.g. "pgd:eps=2/255,steps=20"; eps
            is how far a pixel may move, pictures being 0 to 1.
        defend: stages that pictures pass before the classifier, with commas between them:
            jpeg:QUALITY, wavelet:SIGMA, nearest:SCALE, bicubic:SCALE, or a network of super
            resolution, e.g. "jpeg:75,wavelet:0.02,sesr-m3-x2"; "none" for nothing.
        adaptive: whether an attacker who knows the defence is tried too.
        shrink: how many times smaller than the classifier's input the pictures come; they are
            enlarged by the defence, else by bicubic.

    """

    attack: str = "pgd:eps=2/255,steps=20"
    defend: str = "none"
    adaptive: bool = False
    shrink: int = 1

    def __post_init__(self) -> None:
        parse(self.attack)
        if not 1 <= self.shrink <= 4:
            raise MismatchError(f"shrink is {self.shrink}; expected 1 to 4")


def analyse(specimen: Specimen, options: Options) -> Reliability:
    """Return accuracies: clean, grey-box, and adaptive if asked for."""
    trial, defence = _trial(specimen, options), pipeline(options.defend)
    if options.shrink > 1 and defence.scale not in (1, options.shrink):
        raise MismatchError(
            f"pictures come {options.shrink} times smaller, and {options.defend} enlarges them "
            f"{defence.scale} times: expected {options.shrink}"
        )
    compared = defending.pipelines(defence)
    rows, moved = trial.outcomes(compared, adaptive=options.adaptive)
    if not rows[0].clean.any():
        raise MismatchError(
            f"{specimen.ref} is right on none of the pictures even without an attack: wrong data?"
        )
    estimates = _estimates(rows, adaptive=options.adaptive)
    main = "adaptive" if options.adaptive else "grey_box"
    known = "an attacker who knows it" if options.adaptive else "grey-box, it is not attacked"
    return Reliability(
        analysis="attack",
        ref=specimen.ref,
        target=specimen.target.name if specimen.target else "",
        summary=f"{specimen.ref} behind {defence.text} keeps {estimates[main].value:.1f} % "
        f"accuracy under {trial.attack.text} ({known})",
        main=main,
        estimates=estimates,
        tables={"pipeline": [defending.percentages(row) for row in rows]},
        facts={
            "data": specimen.data, "inputs": len(trial.labels), "attack": trial.attack.text,
            "eps": trial.attack.options.eps, "defend": defence.text, "shrink": options.shrink,
            "pixels": list(trial.images.shape[2:]), "seed": trial.attack.options.seed,
        },
        notes=_notes(specimen, rows, defence, trial),
        picture=partial(_draw, trial.images[:_SHOWN], moved[:_SHOWN], defence),
    )  # fmt: skip


def _trial(specimen: Specimen, options: Options) -> defending.AttackTrial:
    """Return the classifier in pixel space, and pictures on the grid of 8 bits.

    Raises:
        MismatchError: the network does not take pictures.

    """
    span = specimen.recipe.preprocessing.get("range")
    if specimen.recipe.task != "image-classification" or span is None:
        raise MismatchError(
            f"{specimen.ref} is for {specimen.recipe.subtask}: attacks change the pixels of "
            "pictures; give a classifier of pictures, e.g. mlperf-tiny-ic.cifar10"
        )
    low, high = (float(limit) for limit in span)
    pixels = ((specimen.inputs.float() - low) / (high - low) * 255).round().clamp(0, 255) / 255
    size = (int(pixels.shape[2]), int(pixels.shape[3]))
    return defending.AttackTrial(
        network=PixelModel(specimen.network, (low, high)).requires_grad_(False),
        device=PixelModel(specimen.model, (low, high)),
        size=size,
        images=defending.shrunk(pixels, options.shrink),
        labels=specimen.labels,
        attack=parse(options.attack),
    )


def _estimates(rows: Sequence[defending.Defended], *, adaptive: bool) -> dict[str, Estimate]:
    """Return the defence's accuracies, and what it is better than the best row beside it."""
    last, method = rows[-1], f"of all {len(rows[0].clean)} pictures, Wilson's interval"

    def percent(triple: tuple[float, float, float], method: str) -> Estimate:
        value, low, high = (100 * part for part in triple)
        return Estimate(
            value=value, low=low, high=high, known="measured", unit="%", method=method,
            runs=len(last.clean),
        )  # fmt: skip

    found = {
        "undefended_clean": percent(defending.wilson(rows[0].clean), method),
        "undefended": percent(defending.wilson(rows[0].grey_box), method),
        "clean": percent(defending.wilson(last.clean), method),
        "grey_box": percent(defending.wilson(last.grey_box), method),
    }
    key = "grey_box"
    if adaptive:
        assert last.adaptive is not None
        found["adaptive"] = percent(defending.wilson(last.adaptive), method)
        key = "adaptive"
    if len(rows) > 1:
        best = defending.best_null(rows, key)
        triple = defending.difference(getattr(last, key), getattr(best, key))
        found["over_best_null"] = percent(triple, f"{key}, against {best.text}, paired (McNemar)")
    return found


def _notes(
    specimen: Specimen,
    rows: Sequence[defending.Defended],
    defence: Pipeline,
    trial: defending.AttackTrial,
) -> tuple[str, ...]:
    notes = [
        "Grey-box: the attacker knows the classifier, not the pipeline. Every picture counts, "
        "those that are wrong without an attack too.",
    ]
    if rows[-1].adaptive is None:
        notes.append("Whoever knows a defence breaks more of it: --adaptive shows how much.")
    else:
        notes.append(
            "Adaptive: gradients through the pipeline, the identity in place of JPEG's and "
            "wavelets' (BPDA); a lower bound on what an attacker can do."
        )
    masked = [
        row.text
        for row in rows
        if row.adaptive is not None and row.adaptive.double().mean() > row.grey_box.double().mean()
    ]
    if masked:
        notes.append(
            f"The adaptive attack does less than the grey-box one to {'; '.join(masked)}: too few "
            "steps, or masked gradients; believe the lower of both."
        )
    size = [side * defence.scale for side in trial.images.shape[2:]]
    if size != list(trial.size):
        notes.append(
            f"Pictures leave the pipeline at {size[1]}x{size[0]} and are brought to the "
            f"classifier's {trial.size[1]}x{trial.size[0]} by bicubic."
        )
    if specimen.is_integer:
        notes.append("Gradients are those of the float weights, answers the integer network's.")
    return tuple(notes)


def _draw(images: Tensor, moved: Tensor, defence: Pipeline, path: Path) -> None:
    """Draw pictures: as they are, attacked, eight times the difference, and purified."""
    with torch.no_grad():
        purified = defence(moved)
    rows = {
        "as they are": images,
        "attacked": moved,
        "difference x8": ((moved - images) * 8 + 0.5).clamp(0, 1),
        f"after {defence.text}": purified.clamp(0, 1),
    }
    step = _SIDE + _GAP
    canvas = Image.new("RGB", (step * len(images) + _GAP, (step + 22) * len(rows) + _GAP), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(16)
    for line, (title, pictures) in enumerate(rows.items()):
        top = _GAP + line * (step + 22)
        pen.text((_GAP, top), title, "#222222", font)
        for column, picture in enumerate(pictures):
            pixels = (picture * 255).round().byte().permute(1, 2, 0).expand(-1, -1, 3).numpy()
            shown = Image.fromarray(np.ascontiguousarray(pixels))
            canvas.paste(
                shown.resize((_SIDE, _SIDE), Image.Resampling.NEAREST),
                (_GAP + column * step, top + 22),
            )
    with replacing(path) as temporary:
        canvas.save(temporary, format="PNG", optimize=True)
