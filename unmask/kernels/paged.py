"""Attention of a block over the cached keys and values of its row, read from their pages.

Shapes: B rows, L queries, H query heads, G key/value heads (H is a multiple of G), D head size, S slots of the pool, P pages.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from unmask.kernels import accelerated


def paged_attention(
    q_BLHD: Tensor,
    keys_SGD: Tensor,
    values_SGD: Tensor,
    pages_BP: Tensor,
    seen_B: Tensor,
    begin_B: Tensor,
    end_B: Tensor,
    shift_B: Tensor,
    *,
    page: int,
) -> Tensor:
    """Bidirectional attention, softmax(q k^T / sqrt(D)) v, of every query to the first slots of its row, [B, L, H, D].

    Row b sees its slots s < seen[b]. Slot s is the pool's slot pages[b, s // page] * page + s % page; slots from begin[b]
    to end[b] are replaced by the row's copies, shift[b] slots later. A row that sees nothing gets zeros. Slots that no row
    sees may hold anything. Integers are int64, on the queries' device; the kernel does not copy them to the host. Keys and
    values are of the queries' type, or kept in fp8 (e4m3).

    >>> q, k, v = torch.zeros(1, 1, 1, 1), torch.zeros(4, 1, 1), torch.tensor([1.0, 9.0, 2.0, 3.0])[:, None, None]
    >>> pages, zero = torch.tensor([[1, 0]]), torch.tensor([0])
    >>> paged_attention(q, k, v, pages, torch.tensor([3]), zero, zero, zero, page=2)  # the mean of the pool's slots 2, 3 and 0
    tensor([[[[2.]]]])
    """
    assert keys_SGD.dtype == values_SGD.dtype, "keys and values are of one type"
    assert keys_SGD.dtype in (q_BLHD.dtype, torch.float8_e4m3fn), "which is that of the queries, or fp8"
    if accelerated(q_BLHD):
        from unmask.kernels.gpu import paged as gpu

        return gpu.paged_attention(q_BLHD, keys_SGD, values_SGD, pages_BP, seen_B, begin_B, end_B, shift_B, page=page)
    slot_S = torch.arange(int(seen_B.max()), device=q_BLHD.device)
    visible_BS = slot_S < seen_B[:, None]
    pool_BS = places(slot_S.where(visible_BS, 0), pages_BP, begin_B, end_B, shift_B, page=page)
    k_BSGD, v_BSGD = keys_SGD[pool_BS].to(q_BLHD.dtype), values_SGD[pool_BS].to(q_BLHD.dtype)
    q_BHLD, k_BGSD, v_BGSD = (x.transpose(1, 2) for x in (q_BLHD, k_BSGD, v_BSGD))
    mask_B11S = None
    if not visible_BS.all():
        mask_B11S = visible_BS[:, None, None]
        hidden = ~visible_BS[:, None, :, None]
        k_BGSD, v_BGSD = k_BGSD.masked_fill(hidden, 0), v_BGSD.masked_fill(hidden, 0)
    grouped = q_BHLD.shape[1] != k_BGSD.shape[1]
    out_BHLD = scaled_dot_product_attention(q_BHLD, k_BGSD, v_BGSD, attn_mask=mask_B11S, enable_gqa=grouped)
    return out_BHLD.transpose(1, 2).masked_fill((seen_B == 0)[:, None, None, None], 0)


def places(slot_BS: Tensor, pages_BP: Tensor, begin_B: Tensor, end_B: Tensor, shift_B: Tensor, *, page: int) -> Tensor:
    """The pool's slot of each slot of each row, or of its copy if it has one, [B, S].

    >>> number = torch.tensor
    >>> places(number([[0, 1, 2]]), number([[7, 3]]), number([1]), number([2]), number([2]), page=2)
    tensor([[14,  7,  6]])
    """
    copied_BS = (slot_BS >= begin_B[:, None]) & (slot_BS < end_B[:, None])
    own_BS = slot_BS + shift_B[:, None] * copied_BS
    row_B1 = torch.arange(len(pages_BP), device=pages_BP.device)[:, None]
    return stored(pages_BP, row_B1, own_BS, page=page)


def stored(pages_BP: Tensor, row: Tensor, slot: Tensor, *, page: int) -> Tensor:
    """The pool's slots of rows' own slots."""
    return pages_BP[row, slot // page] * page + slot % page


def write(memory_SGD: Tensor, x_MGD: Tensor, slots_M: Tensor) -> None:
    """Store fresh keys or values in the pool's slots, in place and in its type: numbers beyond it become its largest.

    >>> memory = torch.zeros(3, 1, 1)
    >>> write(memory, torch.ones(1, 1, 1), torch.tensor([2]))
    >>> memory.flatten()
    tensor([0., 0., 1.])
    """
    if memory_SGD.dtype == x_MGD.dtype:
        memory_SGD.index_copy_(0, slots_M, x_MGD)
        return
    most = torch.finfo(memory_SGD.dtype).max
    stored = x_MGD.clamp(-most, most).to(memory_SGD.dtype)
    as_bytes(memory_SGD).index_copy_(0, slots_M, as_bytes(stored))


def as_bytes(x: Tensor) -> Tensor:
    """The bytes of a tensor's numbers, of which every operator knows what to do."""
    return x.view(torch.uint8)
