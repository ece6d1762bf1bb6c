"""Which steps make the running form of a network fast where it is."""

from unmask.models.merged import Merge
from unmask.models.network import Network
from unmask.models.packed import Pack, packable
from unmask.models.running import Step


def steps(network: Network) -> tuple[Step, ...]:
    """On a GPU fewer and larger products, on a CPU its own layout where that pays.

    The meta device stands for a GPU, as in `unmask.kernels`.
    """
    first = next(network.parameters())
    if first.is_cuda or first.is_meta:
        return (Merge(),)
    return (Pack(),) if packable(first.device, first.dtype) else ()
