"""The library dLLM (github.com/ZHZisZZ/dllm, Apache-2.0) as a peer. This adapter has NEVER RUN here.

    unmask bench peers --model GSAI-ML/LLaDA-8B-Instruct --method vanilla-official \
        --peer "dllm=/path/to/its/python benchmarks/peers/dllm.py {model}"

Its samplers report no number of forwards, so forwards are counted as calls of the network.
"""

import argparse
import sys
from contextlib import redirect_stdout
from typing import Any

from lines import serve

NOTE = "this adapter has never run where it was written"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    with redirect_stdout(sys.stderr):  # stdout is for answers alone
        import dllm
        import torch
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        dtype = getattr(torch, given.dtype)
        network = AutoModelForMaskedLM.from_pretrained(given.model, torch_dtype=dtype, trust_remote_code=True)
        network = network.to(given.device).eval()
        tokenizer = AutoTokenizer.from_pretrained(given.model, trust_remote_code=True)
        sampler = dllm.core.samplers.MDLMSampler(model=network, tokenizer=tokenizer)
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    network.register_forward_hook(count)

    @torch.inference_mode()
    def decode(ids: list[int], asked: dict[str, Any]) -> tuple[list[int], int]:
        length, before = asked["max_new_tokens"], calls
        block = min(asked["method"]["block_length"], length)
        made = sampler.sample([ids], max_new_tokens=length, steps=length, block_size=block, temperature=0.0)
        return made[0][len(ids) : len(ids) + length].tolist(), calls - before

    serve(decode, NOTE)


if __name__ == "__main__":
    main()
