"""Chat templates: small programs that come with a checkpoint, so they may raise anything, and may not end."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from unmask.errors import RequestError

SECONDS = 0.5  # of processor time that a template may take for one chat; looked at before each of its lines
LETTERS = 2**20  # of its text, beside what the turns say
_CODE = "<template>"  # the file name of code that jinja makes of a template


def render(
    tokenizer: Any,
    turns: Sequence[Mapping[str, str]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    prompting: bool = True,
    continuing: bool = False,
) -> str:
    """The text of a chat: with `prompting` up to where the assistant's turn begins, with `continuing` within its last turn.

    Raises RequestError where the template raises, whatever it is, or runs for more than SECONDS, or writes too much.

    >>> import unmask
    >>> render(unmask.load("unmask-tiny").tokenizer, [{"role": "user", "content": "Hi"}])
    '<|user|>Hi<|assistant|>'
    """
    try:
        with _bounded():
            text = tokenizer.apply_chat_template(
                turns, tools=tools, add_generation_prompt=prompting, continue_final_message=continuing, tokenize=False
            )
    except Exception as error:
        said = " ".join(str(error).split())[:200] or "it gives no reason"
        kind = "" if type(error).__name__ == "TemplateError" else f"{type(error).__name__}: "
        raise RequestError(f"the model's chat template refuses the turns: {kind}{said}") from None
    if len(text) > LETTERS + 8 * sum(len(turn["content"]) for turn in turns):
        raise RequestError(f"the model's chat template makes {len(text)} letters of this chat, which is more than {LETTERS}")
    return str(text)


@contextmanager
def _bounded() -> Iterator[None]:
    """Have template code of this thread raise TimeoutError once it has run for SECONDS."""
    before, end = sys.gettrace(), time.thread_time() + SECONDS

    def check(frame: FrameType, event: str, argument: object) -> Any:
        if time.thread_time() > end:
            raise TimeoutError(f"it does not end within {SECONDS:g} s")
        return check

    def enter(frame: FrameType, event: str, argument: object) -> Any:
        return check if frame.f_code.co_filename == _CODE else None

    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)
