"""The authors' R2-dLLM as a peer. This adapter has NEVER RUN here.

    unmask bench peers --model GSAI-ML/LLaDA-8B-Instruct --method r2-dllm-official \
        --peer "r2-dllm=/path/to/its/python benchmarks/peers/r2_dllm.py /path/to/R2-dLLM {model} MODULE FUNCTION"

MODULE.FUNCTION is their decoder: called with the network, a prompt [1, T], steps, gen_length and block_length, it returns
the canvas and the number of forwards. `--option name=value` hands it a number more, such as a threshold.
"""

import argparse
import importlib
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from lines import serve

NOTE = "this adapter has never run where it was written"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path)
    parser.add_argument("model")
    parser.add_argument("module")
    parser.add_argument("function")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    options = {name: json.loads(value) for name, _, value in (option.partition("=") for option in given.option)}
    sys.path.insert(0, str(given.repository))
    with redirect_stdout(sys.stderr):  # stdout is for answers alone
        import torch
        from transformers import AutoModel

        decode = getattr(importlib.import_module(given.module), given.function)
        dtype = getattr(torch, given.dtype)
        network = AutoModel.from_pretrained(given.model, torch_dtype=dtype, trust_remote_code=True).to(given.device).eval()

    @torch.inference_mode()
    def answer(ids: list[int], asked: dict[str, Any]) -> tuple[list[int], int]:
        length = asked["max_new_tokens"]
        sizes = {"steps": length, "gen_length": length, "block_length": min(asked["method"]["block_length"], length)}
        made, calls = decode(network, torch.tensor([ids], device=given.device), **sizes, **options)
        return made[0, len(ids) :].tolist(), int(calls)

    serve(answer, NOTE)


if __name__ == "__main__":
    main()
