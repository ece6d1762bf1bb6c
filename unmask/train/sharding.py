"""FSDP2: every process holds a slice of every weight, and all gather one layer at a time.

    accelerate launch --use_fsdp --fsdp_version 2 -m unmask train sft --config run.yaml

The training loop is the same; this module holds what differs.
"""

import os

import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin, PartialState
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor

from unmask.errors import ConfigError


def plugin(precision: str) -> FullyShardedDataParallelPlugin | None:
    """The sharding that the launcher set, or None. Raises ConfigError for FSDP's first version.

    Layers are the units, and checkpoints are sharded, whatever the launcher says. Gradients are summed in fp32 also where
    weights are gathered in bf16; accelerate's own policy would round them, and the losses, to bf16.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return None
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise ConfigError("FSDP 1 is not supported, only FSDP 2: accelerate launch --use_fsdp --fsdp_version 2")
    rounded = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return FullyShardedDataParallelPlugin(
        mixed_precision_policy=rounded if precision == "bf16" else None,
        auto_wrap_policy="transformer_based_wrap",  # the classes are in Student
        state_dict_type="SHARDED_STATE_DICT",
        cpu_ram_efficient_loading=False,  # every process reads the model itself
    )


def also_on_cpus() -> None:
    """Let accelerate shard over CPU processes, where it would silently run DDP: torch can, and tests need no GPU."""
    state = PartialState(cpu=True)
    if state.use_distributed:
        state.distributed_type = DistributedType.MULTI_GPU  # a kind that accelerate shards; the device stays the CPU


def gathered(tensor: Tensor) -> Tensor:
    """A whole tensor from its slices, on every process; a collective call. A tensor that is not sharded is returned."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sliced(whole: Tensor, like: Tensor) -> Tensor:
    """The slice for this process of a tensor that every process holds, laid out like `like`; the inverse of `gathered`."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)
