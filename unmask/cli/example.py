"""`unmask train sft --show-example N`: one example as the model will see it."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.text import Text

if TYPE_CHECKING:
    from unmask.train.sft import SFTConfig
    from unmask.train.show import Run

ROLES = {"system": "magenta", "user": "cyan", "assistant": "green", "filler": "bright_black"}
STATES = {"given": "", "hidden": "strike dim", "learned": "bold", "asked": "reverse", "later": "reverse dim"}
MEANING = """\
given, hidden   never learned; hidden is masked in this draw
learned         learned, and shown in this draw
asked, later    learned, and masked in this draw, which asks for the former"""


def print_example(config: "SFTConfig", number: int) -> None:
    """Print it in colours on a terminal, otherwise a line for each part: role, state, tokens, text."""
    from unmask.train.show import show

    about, runs = show(config, number)
    console = Console(soft_wrap=True)
    console.print(escape(about), highlight=False)
    if console.is_terminal:
        console.print(_coloured(runs))
        return
    print(f"{MEANING}\n")
    for run in runs:
        print(f"{run.role:<10} {run.state:<8} {run.tokens:>5}  {run.text!r}")


def _coloured(runs: "list[Run]") -> Text:
    """Role by colour, state by its manner, with a legend below."""
    text = Text()
    for run in runs:
        text.append(run.text, style=f"{ROLES.get(run.role, 'yellow')} {STATES[run.state]}")
    text.append("\n\n")
    for role in dict.fromkeys(run.role for run in runs):
        text.append(f" {role} ", style=ROLES.get(role, "yellow"))
    for state, style in STATES.items():
        text.append(f" {state} ", style=style)
    return text
