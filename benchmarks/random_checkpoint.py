"""A checkpoint folder of random weights in LLaDA's layout, for measurements that need a size and no answers.

python benchmarks/random_checkpoint.py 60M FOLDER
unmask bench peers --model FOLDER
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from unmask.models.layers import init_weights
from unmask.models.llada import LLaDA

SIZES: Mapping[str, Mapping[str, int]] = {
    "60M": {"d_model": 640, "n_layers": 8, "n_heads": 10, "mlp_hidden_size": 1792, "vocab_size": 16384},
    "300M": {"d_model": 1024, "n_layers": 20, "n_heads": 16, "mlp_hidden_size": 2816, "vocab_size": 20480},
}


def write(size: str, folder: Path) -> Path:
    """Make the folder, in fp32, the same weights every time; returns it."""
    ids = {"mask_token_id": SIZES[size]["vocab_size"] - 1, "eos_token_id": SIZES[size]["vocab_size"] - 2}
    rest = {"architectures": ["LLaDAModelLM"], "model_type": "llada", "max_sequence_length": 1024, "rope_theta": 10000.0}
    config = {**SIZES[size], **ids, **rest}
    network = LLaDA(config)
    init_weights(network, std=0.02, generator=torch.Generator().manual_seed(0))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(network.state_dict(), folder / "model.safetensors")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    print(write(given.size, given.folder))


if __name__ == "__main__":
    main()
