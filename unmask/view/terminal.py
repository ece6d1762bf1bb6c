"""A decode drawn in the terminal: every position of the answer, masked ones visible, in the colour of its rule."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from unmask.engine.request import StepRecord
from unmask.models.denoiser import Denoiser
from unmask.view.trace import Recorder, Trace

MASK, FILLER = "░", "·"
MARKS = "₁₂₃₄₅₆₇₈₉"  # behind the tokens of a rule, where there are no colours


def draw(trace: Trace, forward: int | None = None, *, masks: bool = True, marks: bool = False) -> Group:
    """The answer after this many forwards (None: all so far), rewritten tokens underlined, and what the colours mean.

    `masks=False` leaves out masked positions: after the last forward they will never be written. `marks=True` says which
    rule wrote the tokens by a number behind each run of one rule, for screens without colours.
    """
    forward = trace.forwards if forward is None else forward
    body, seen = Text(), dict[str, str]()  # the rules in the order of their first token, and the mark of each
    before, rewritten = None, False
    for place, cell in enumerate(trace.cells(forward)):
        if marks and before is not None and cell.rule != before:
            body.append(seen[before])
        before = cell.rule
        if cell.rule is not None:
            seen.setdefault(cell.rule, MARKS[len(seen) % len(MARKS)] if marks else "■")
            filler = FILLER if place >= trace.tokens else ""
            line = "" if cell.before is None else " underline"
            rewritten = rewritten or cell.before is not None
            body.append(cell.text or filler, style=("" if marks else trace.look(cell.rule).terminal) + line)
        elif masks:
            body.append(MASK, style="dim")
    if marks and before is not None:
        body.append(seen[before])
    legend = Text(f"\nforward {forward}   ")
    for rule, mark in seen.items():
        look = trace.look(rule)
        legend.append(f"{mark} {look.label}   ", style="" if marks else look.terminal)
    if rewritten:
        legend.append("rewritten", style="underline")
    refused = [one.text.strip() or "end of text" for one in trace.steps[forward - 1].refused] if forward else []
    if masks and refused:
        legend.append(f"\nrefused by the grammar   {'   '.join(refused)}", style="dim")
    return Group(body, legend)


def _plain(console: Console) -> bool:
    """Whether this console shows no colours: NO_COLOR, a pipe, a terminal without any."""
    return console.no_color or console.color_system is None


class _Watcher(Recorder):
    """A recorder that redraws the answer at every forward."""

    def __init__(self, model: Denoiser, max_new_tokens: int, live: Live, fixed: Mapping[int, int]) -> None:
        super().__init__(model, max_new_tokens, fixed=fixed)
        self._live, self._marks = live, _plain(live.console)

    def __call__(self, record: StepRecord) -> None:
        super().__call__(record)
        self._live.update(draw(self.trace(), marks=self._marks), refresh=True)


@contextmanager
def watching(
    model: Denoiser, max_new_tokens: int, console: Console | None = None, *, fixed: Mapping[int, int] = MappingProxyType({})
) -> Iterator[Recorder]:
    """Yield a recorder that draws a batch of one as it is decoded; the finished answer stays on the screen.

    `fixed` is the text of a canvas around its holes, as a `Recorder` takes it.
    """
    console = console or Console()
    with Live(console=console, auto_refresh=False) as live:
        watcher = _Watcher(model, max_new_tokens, live, fixed)
        yield watcher
        if watcher.seen:  # a canvas without holes takes no forward
            live.update(draw(watcher.trace(), masks=False, marks=_plain(console)), refresh=True)
    if not console.is_terminal:
        console.print()


def play(trace: Trace, console: Console, *, pause: float = 0.15) -> None:
    """Show a trace forward by forward, `pause` seconds each; only the answer and its end where there is no terminal."""
    marks = _plain(console)
    console.print(Text(f"{trace.method} on {trace.model}", style="bold"))
    if not console.is_terminal:
        console.print(Text(f"{trace.text}\n"), soft_wrap=True)
        console.print(draw(trace, masks=False, marks=marks))
        return
    with Live(console=console, auto_refresh=False) as live:
        for forward in range(trace.forwards):
            live.update(draw(trace, forward, marks=marks), refresh=True)
            time.sleep(pause)
        live.update(draw(trace, masks=False, marks=marks), refresh=True)
