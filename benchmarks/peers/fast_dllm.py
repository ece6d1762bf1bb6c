"""NVlabs' Fast-dLLM (github.com/NVlabs/Fast-dLLM, Apache-2.0) as a peer. This adapter has NEVER RUN here.

    unmask bench peers --model GSAI-ML/LLaDA-8B-Instruct --method fast-dllm-official \
        --peer "fast-dllm=/path/to/its/python benchmarks/peers/fast_dllm.py /path/to/Fast-dLLM/v1/llada {model}"

It decodes one prompt after the other with the dual cache and the method's threshold, in the type of `--dtype`.
"""

import argparse
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from lines import serve

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

    @torch.inference_mode()
    def decode(ids: list[int], asked: dict[str, Any]) -> tuple[list[int], int]:
        method, length = asked["method"], asked["max_new_tokens"]
        made, calls = generate_with_dual_cache(
            network,
            torch.tensor([ids], device=given.device),
            steps=length,
            gen_length=length,
            block_length=min(method["block_length"], length),
            threshold=method["commit"].get("threshold"),
            mask_id=asked["mask_id"],
        )
        return made[0, len(ids) :].tolist(), int(calls)

    serve(decode, NOTE)


if __name__ == "__main__":
    main()
