"""Two methods on the same held-out problems: accuracy with its interval, forwards, tokens per forward.

python examples/evaluate.py [NUMBER]
"""

import sys

import unmask
from unmask.evals import load
from unmask.evals.run import evaluate
from unmask.evals.summary import table
from unmask.evals.task import Source

number = int(sys.argv[1]) if len(sys.argv) > 1 else 32
model = unmask.load("unmask-tiny")
methods = {name: unmask.method(name) for name in ("fast-dllm", "r2-dllm")}
for row in table(evaluate(model, load("arithmetic", Source(limit=number)), methods)):
    right = f"{row['accuracy']:.0%} right ({row['accuracy_low']:.0%} to {row['accuracy_high']:.0%})"
    print(
        f"{row['method']:<10} {right}, {row['forwards_mean']:.2f} forwards, {row['tokens_per_forward']:.1f} tokens per forward"
    )
