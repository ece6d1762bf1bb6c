"""Which steps make the running form of a network fast where it is."""

from unmask.models.merged import Merge
from unmask.models.network import Network
from unmask.models.packed import Pack, packable
from unmask.models.quantised import Quantise
from unmask.models.running import Step


def steps(network: Network) -> tuple[Step, ...]:
    """Products of quantised weights; of plain ones on a GPU fewer and larger, on a CPU its own layout where that pays.

    The meta device stands for a GPU, as in `unmask.kernels`.
    """
    first = next(network.parameters())
    if network.weights is not None:  # joined by the step itself; what is not quantised may still be packed
        return (Quantise(), Pack()) if packable(first.device, first.dtype) else (Quantise(),)
    if first.is_cuda or first.is_meta:
        return (Merge(),)
    return (Pack(),) if packable(first.device, first.dtype) else ()
