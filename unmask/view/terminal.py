"""A decode drawn in the terminal: every position of the answer, masked ones visible, coloured by the rule that wrote it."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from unmask.engine.request import Observer, StepRecord
from unmask.models.denoiser import Denoiser

MASK = "░"
COLOURS = {
    "quota": "white",
    "schedule": "white",
    "threshold": "green",
    "factor": "green",
    "confidence_cluster": "cyan",
    "token_cluster": "magenta",
    "temporal": "yellow",
}


class Picture:
    """The answer of one row, kept up to date from the engine's records."""

    def __init__(self, model: Denoiser, new_tokens: int) -> None:
        self.model = model
        self.new_tokens = new_tokens
        self.written: dict[int, tuple[int, str]] = {}  # position -> token, rule
        self.masked: set[int] = set()
        self.forwards = 0

    def update(self, record: StepRecord) -> None:
        """Take in one forward of a batch of one."""
        self.forwards = record.forward + 1
        if record.forward == 0:
            prompt = record.query_tokens[0].index(self.model.spec.mask_id)
            self.masked = set(range(prompt, prompt + self.new_tokens))
        for place, token, rule in zip(record.committed[0], record.tokens[0], record.rule[0], strict=True):
            self.written[place] = (token, rule)
            self.masked.discard(place)

    def text(self, place: int) -> str:
        """What the token at `place` adds to the text before it."""
        tokenizer, token = self.model.tokenizer, self.written[place][0]
        if token in (*self.model.spec.eos_ids, *self.model.spec.turn_ids):
            return "·"
        if tokenizer is None:
            return f" {token}"
        before = self.written.get(place - 1)
        if before is None:
            piece: str = tokenizer.decode([token])
            return piece if piece.startswith(" ") else f" {piece}"
        head: str = tokenizer.decode([before[0]])
        both: str = tokenizer.decode([before[0], token])
        return both[len(head) :]

    def draw(self) -> Group:
        """The answer as it stands, and a line that explains the colours."""
        body = Text()
        for place in sorted({*self.written, *self.masked}):
            if place in self.masked:
                body.append(MASK, style="dim")
            else:
                body.append(self.text(place), style=COLOURS.get(self.written[place][1], "white"))
        seen = {rule for _, rule in self.written.values()}
        legend = Text(f"\nforward {self.forwards}   ")
        for rule, colour in COLOURS.items():
            if rule in seen:
                legend.append(f"■ {rule}   ", style=colour)
        return Group(body, legend)


@contextmanager
def watching(model: Denoiser, new_tokens: int, console: Console | None = None) -> Iterator[Observer]:
    """Yield an observer that redraws the picture at every forward; the finished answer stays on the screen."""
    picture = Picture(model, new_tokens)
    console = console or Console()
    with Live(console=console, auto_refresh=False) as live:

        def observe(record: StepRecord) -> None:
            picture.update(record)
            live.update(picture.draw(), refresh=True)

        yield observe
        picture.masked.clear()  # a row that ended early leaves masks that nobody will write
        live.update(picture.draw(), refresh=True)
    if not console.is_terminal:
        console.print()
