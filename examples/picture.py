"""Draw one decode as an SVG, every token in the colour of the rule that committed it: the picture at the top of the README.

python examples/picture.py docs/decode.svg
"""

import io
import sys

from rich.console import Console

import unmask
from unmask.view.terminal import draw
from unmask.view.trace import Recorder

QUESTION = (
    "Mia has 23 apples. On Monday Mia buys 8. On Tuesday Mia gives away 5. On Wednesday Mia finds 7. "
    "How many apples does Mia have?"
)

model = unmask.load("unmask-tiny")
recorder = Recorder(model, max_new_tokens=128)
unmask.generate(model, [QUESTION], method="r2-dllm", max_new_tokens=128, observer=recorder)
trace = recorder.trace()
console = Console(record=True, width=96, file=io.StringIO())
console.print(f"[dim]{QUESTION}[/dim]\n", highlight=False)
for drawing in (draw(trace, 1), "", draw(trace, masks=False)):
    console.print(drawing)
console.save_svg(sys.argv[1], title="unmask generate --method r2-dllm --watch")
