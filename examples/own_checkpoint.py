"""A checkpoint folder of one's own that carries how it is decoded: method, length and settings in unmask.json.

python examples/own_checkpoint.py FOLDER
"""

import json
import shutil
import sys
from pathlib import Path

import unmask
from unmask.models.loading import locate

folder = Path(sys.argv[1])
if not folder.exists():  # any folder in the Hugging Face layout of a known family will do
    shutil.copytree(locate("unmask-tiny-base"), folder)
choices = {"method": "fast-dllm", "max_new_tokens": 96, "presets": {"fast-dllm": {"commit.threshold": 0.95}}}
(folder / "unmask.json").write_text(json.dumps(choices))  # `unmask calibrate --save` writes what it has certified

answer = unmask.generate(unmask.load(folder), ["Compute 40 + 7 - 9."])[0]
print(answer.text)
print(f"{answer.method.name} at {answer.method.commit.threshold}, {len(answer.token_ids)} tokens at most")
