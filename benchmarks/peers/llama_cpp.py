"""llama.cpp's llama-diffusion-cli (github.com/ggml-org/llama.cpp, MIT) as a peer. This adapter has NEVER RUN here.

    unmask bench peers --model FOLDER --method vanilla-official \
        --peer "llama.cpp=python benchmarks/peers/llama_cpp.py llama-diffusion-cli MODEL.gguf FOLDER"

The program takes text, not ids, and prints text: prompts are decoded and answers encoded with FOLDER's tokenizer, so that a
difference of tokens may be one of spelling. It loads its weights for every prompt; the time of an empty run is taken off.
"""

import argparse
import json
import resource
import subprocess
import sys
from typing import Any

NOTE = "this adapter has never run where it was written; loading, measured once, is taken off"


def run(command: list[str]) -> tuple[str, float]:
    """What a command prints, and its processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return text, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("weights", help="a .gguf of the same weights")
    parser.add_argument("tokenizer", help="the folder of the checkpoint")
    given = parser.parse_args()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(given.tokenizer)
    command = [given.program, "-m", given.weights, "--temp", "0"]
    loading = run([*command, "-p", "", "--diffusion-steps", "1", "-ub", "8"])[1]

    def answer(asked: dict[str, Any]) -> dict[str, Any]:
        length, spent, tokens = asked["max_new_tokens"], 0.0, []
        block = min(asked["method"]["block_length"], length)
        for ids in asked["prompts"]:
            sizes = ["-ub", str(len(ids) + length), "--diffusion-steps", str(length), "--diffusion-block-length", str(block)]
            text, seconds = run([*command, *sizes, "-p", tokenizer.decode(ids)])
            made = tokenizer.encode(text, add_special_tokens=False)[:length]
            tokens.append(made + [asked["eos_ids"][0]] * (length - len(made)))
            spent += max(1e-6, seconds - loading)
        return {"tokens": tokens, "forwards": [length] * len(tokens), "cpu_seconds": spent, "note": NOTE}

    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
