"""One prompt, one answer, and what it cost.

python examples/generate.py
"""

import unmask

model = unmask.load("unmask-tiny")
question = "Mia has 23 apples. On Monday Mia buys 8. How many apples does Mia have?"
answer = unmask.generate(model, [question])[0]
print(answer.text)
print(f"{answer.method.name}: {answer.forwards} forwards, {answer.tokens_per_forward:.1f} tokens per forward")
