"""NVlabs' Fast-dLLM (github.com/NVlabs/Fast-dLLM, Apache-2.0) as a peer. This adapter has NEVER RUN here.

    unmask bench peers --model GSAI-ML/LLaDA-8B-Instruct --method fast-dllm-official \
        --peer "fast-dllm=/path/to/its/python benchmarks/peers/fast_dllm.py /path/to/Fast-dLLM/v1/llada {model}"

It decodes one prompt after the other with the dual cache and the method's threshold, in the type of `--dtype`.
"""

import argparse
import json
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

NOTE = "this adapter has never run where it was written"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path, help="its folder v1/llada")
    parser.add_argument("model")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    sys.path.insert(0, str(given.repository))
    with redirect_stdout(sys.stderr):  # stdout is for answers alone
        import torch
        from generate import generate_with_dual_cache
        from model.modeling_llada import LLaDAModelLM

        dtype = getattr(torch, given.dtype)
        network = LLaDAModelLM.from_pretrained(given.model, torch_dtype=dtype).to(given.device).eval()

    def answer(asked: dict[str, Any]) -> dict[str, Any]:
        method, length, tokens, forwards = asked["method"], asked["max_new_tokens"], [], []
        began = time.process_time()
        for ids in asked["prompts"]:
            prompt = torch.tensor([ids], device=given.device)
            made, calls = generate_with_dual_cache(
                network,
                prompt,
                steps=length,
                gen_length=length,
                block_length=min(method["block_length"], length),
                threshold=method["commit"].get("threshold"),
                mask_id=asked["mask_id"],
            )
            tokens.append(made[0, len(ids) :].tolist())
            forwards.append(int(calls))
        spent = time.process_time() - began
        return {"tokens": tokens, "forwards": forwards, "cpu_seconds": spent, "note": NOTE}

    for line in sys.stdin:
        with redirect_stdout(sys.stderr), torch.inference_mode():
            made = answer(json.loads(line))
        print(json.dumps(made), flush=True)


if __name__ == "__main__":
    main()
