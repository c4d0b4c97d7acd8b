"""The Looks tab's figures as HTML: what a switch cost, and what looks lose to each other."""

import html
import math

from zoo.page.cards import figures, longer, threads
from zoo.page.restyling import MOST_STRENGTH, ROUNDS, Losses, Mix, Studio

PLUS = " + "
_KNOWN_MS = 1  # planning takes longer, finding a plan takes less


def cards(mix: Mix, studio: Studio) -> str:
    """Return four facts about a mix."""
    look = next(iter(studio.looks.values()))
    times = f"{longer(mix.lora_ms / mix.switch_ms)}; " if mix.strengths else ""
    known = mix.plan_ms < _KNOWN_MS
    plan = "its plan was there" if known else f"this mix was planned in {mix.plan_ms:.0f} ms"
    rows = [
        ("Switched, out and in", _ms(mix.switch_ms) if mix.strengths else "no look",
         f"fastest of {ROUNDS}, measured now, {threads()}; {plan}, the "
         f"picture took {mix.forward_ms:.0f} ms"),
        ("LoRA of equal size", _ms(mix.lora_ms) if mix.strengths else "no look",
         f"{times}random factors of rank {studio.rank} merged into a copy and out again, which "
         f"left {mix.lora_off:,} weights with other bits"),
        ("A look", f"{look.nbytes / 1000:.0f} KB",
         f"{studio.values:,} of {studio.total:,} weights; now {mix.changed:,} are changed"),
        ("The base, to the bit", "untouched" if mix.before == mix.after else "CHANGED",
         f"SHA-256 before {mix.before[:10]}…, after {mix.after[:10]}…"),
    ]  # fmt: skip
    scaled = ""
    if mix.scaled:
        used = PLUS.join(f"{studio.looks[n].label} {v:g}" for n, v in mix.strengths.items())
        scaled = (
            f"<p class='zoo-note'>The sliders sum up to more than {MOST_STRENGTH:g}, further than "
            f"the looks have learned to mix, so this is {html.escape(used)}.</p>"
        )
    return figures(rows) + scaled


def _ms(value: float) -> str:
    return f"{value:.2g} ms" if value < 10 else f"{value:.0f} ms"


def losses_table(losses: Losses | None, studio: Studio) -> str:
    """Return what a mix keeps of each look alone, or what to do to see it."""
    if losses is None:
        return "<p class='zoo-note'>Move up two sliders or more, and let go.</p>"
    rows = "".join(
        f"<tr><th>{html.escape(studio.looks[name].label)}</th>"
        f"<td>{'the same' if math.isinf(psnr) else f'{psnr:.1f} dB'}</td></tr>"
        for name, psnr in losses.psnr_db.items()
    )
    peft = "peft is not installed here, so nothing is measured with it."
    if losses.peft_ms is not None:
        peft = (
            f"peft merges one LoRA of rank {studio.rank} ({studio.low_rank_values:,} values) into "
            f"this network and out again in {_ms(losses.peft_ms)}, measured here."
        )
    return (
        "<div class='zoo-scroll'><table class='zoo-losses'><thead><tr><th>Look</th>"
        f"<th>The mix against this look alone, PSNR</th></tr></thead><tbody>{rows}</tbody></table>"
        "</div><p class='zoo-note'>The lower, the more of a look is covered by the others. Below: "
        f"where the looks change the same weights, and whether in opposite directions. {peft}</p>"
    )
