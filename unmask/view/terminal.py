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


def draw(trace: Trace, forward: int | None = None, *, masks: bool = True) -> Group:
    """The answer after this many forwards (None: all so far), rewritten tokens underlined, and what the colours mean.

    `masks=False` leaves out masked positions: after the last forward they will never be written.
    """
    forward = trace.forwards if forward is None else forward
    body, seen = Text(), dict[str, None]()  # the rules in the order of their first token
    rewritten = False
    for place, cell in enumerate(trace.cells(forward)):
        if cell.rule is not None:
            seen[cell.rule] = None
            filler = FILLER if place >= trace.tokens else ""
            line = "" if cell.before is None else " underline"
            rewritten = rewritten or cell.before is not None
            body.append(cell.text or filler, style=trace.look(cell.rule).terminal + line)
        elif masks:
            body.append(MASK, style="dim")
    legend = Text(f"\nforward {forward}   ")
    for rule in seen:
        look = trace.look(rule)
        legend.append(f"■ {look.label}   ", style=look.terminal)
    if rewritten:
        legend.append("rewritten", style="underline")
    return Group(body, legend)


class _Watcher(Recorder):
    """A recorder that redraws the answer at every forward."""

    def __init__(self, model: Denoiser, max_new_tokens: int, live: Live, fixed: Mapping[int, int]) -> None:
        super().__init__(model, max_new_tokens, fixed=fixed)
        self._live = live

    def __call__(self, record: StepRecord) -> None:
        super().__call__(record)
        self._live.update(draw(self.trace()), refresh=True)


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
            live.update(draw(watcher.trace(), masks=False), refresh=True)
    if not console.is_terminal:
        console.print()


def play(trace: Trace, console: Console, *, pause: float = 0.15) -> None:
    """Show a trace forward by forward, `pause` seconds each; only its end if the output is not a terminal."""
    console.print(Text(f"{trace.method} on {trace.model}", style="bold"))
    if not console.is_terminal:
        console.print(draw(trace, masks=False))
        return
    with Live(console=console, auto_refresh=False) as live:
        for forward in range(trace.forwards):
            live.update(draw(trace, forward), refresh=True)
            time.sleep(pause)
        live.update(draw(trace, masks=False), refresh=True)
