"""Fine-tune the embedded base model on conversations of one's own, and answer with the result: seconds on two cores.

python examples/fine_tune.py FOLDER
"""

import json
import sys
from pathlib import Path

import unmask
from unmask.train.sft import SFTConfig, sft

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
data = folder / "conversations.jsonl"
pairs = [{"prompt": f"Double {number}.", "completion": f"{2 * number}"} for number in range(64)]
data.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))

settings = SFTConfig.from_dict(
    {
        "model": "unmask-tiny-base",
        "data": str(data),
        "output": str(folder / "tuned"),
        "lora": None,
        "epochs": 2,
        "batch_size": 16,
        "length": 256,
    }
)
tuned = sft(settings, lambda step, measured: print(f"step {step + 1}: loss {measured['loss']:.2f}"))
print(unmask.generate(unmask.load(tuned), ["Double 21."], max_new_tokens=32)[0].text)
