"""A commit head's file: `commit_head.safetensors` beside the weights that it was trained for, or nowhere."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from unmask.decode.commit_head import CommitHead, HeadWeights
from unmask.errors import ModelError
from unmask.files import write_atomically

FILE = "commit_head.safetensors"


def read(folder: Path, fingerprint: str, *, width: int, device: torch.device | str = "cpu") -> CommitHead | None:
    """The head of a checkpoint's folder, or None where there is none.

    Raises ModelError where the file cannot be read, or was trained for weights of another fingerprint or width.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            trained_for = (file.metadata() or {}).get("fingerprint")
            weights = HeadWeights(*(file.get_tensor(name).to(device, torch.float32) for name in HeadWeights._fields))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a readable commit head ({error}): train it again or remove it") from None
    if trained_for != fingerprint:
        raise ModelError(
            f"{path} was trained for the weights {trained_for}, and here are {fingerprint}: "
            "train it again (`unmask train head`) or remove it"
        )
    head = CommitHead(weights, fingerprint, digest=hashlib.sha256(path.read_bytes()).hexdigest()[:16])
    if head.width != width:
        raise ModelError(f"{path} is for hidden states of {head.width} channels, and the model's have {width}: train it again")
    return head


def write(head: CommitHead, path: Path) -> None:
    """Write a head, atomically."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in head.weights._asdict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda place: save_file(tensors, place, metadata={"fingerprint": head.fingerprint}))
