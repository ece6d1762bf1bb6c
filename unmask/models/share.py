"""The part of a network that a process holds under tensor parallelism (models/parallel.py)."""

from typing import NamedTuple

import torch.distributed as dist

from unmask.errors import ConfigError


class Share(NamedTuple):
    """One process's part of a network: slice `rank` of `processes`."""

    rank: int
    processes: int
    group: "dist.ProcessGroup | None"


ALONE = Share(rank=0, processes=1, group=None)


def share(tensor_parallel: "bool | dist.ProcessGroup") -> Share:
    """The part of this process in a group, in all of torch.distributed (True), or without a group (False).

    Raises ConfigError if torch.distributed has not been started or this process is not in the group.
    """
    if tensor_parallel is False:
        return ALONE
    if not dist.is_available() or not dist.is_initialized():
        raise ConfigError(
            "tensor_parallel=True shares the model between the processes of torch.distributed: "
            "start them with torchrun and call torch.distributed.init_process_group() first"
        )
    group = dist.group.WORLD if tensor_parallel is True else tensor_parallel
    mine = Share(dist.get_rank(group), dist.get_world_size(group), group)
    if mine.rank < 0:
        raise ConfigError(f"process {dist.get_rank()} is not in the group that shares the model: load it only in its members")
    return mine
