"""Several prompts as one batch, with three methods; every row is decoded as if it were alone.

python examples/batch.py
"""

import unmask

model = unmask.load("unmask-tiny")
prompts = ["Compute 40 + 7 - 9.", "Solve x + 7 = 41.", "Sort the names Mia, Eva, Noah, Hugo, Iris."]
for method in ("vanilla", "fast-dllm", unmask.method("r2-dllm", threshold=0.95)):
    for answer in unmask.generate(model, prompts, method=method):
        print(f"{answer.method.name:<10} {answer.forwards:>3} forwards  {answer.text}")
