"""The places of block forwards: the kernel against its plain form."""

import pytest
import torch
from devices import DEVICES, kernel

from unmask.kernels.slots import block_slots


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("rows", "length", "page"), [(1, 1, 4), (3, 33, 16), (2, 7, 4)])
def test_the_kernel_is_the_plain_form(device: str, rows: int, length: int, page: int) -> None:
    """Queries that begin within a page, and drafts' copies far behind."""
    pages = torch.randperm(rows * 40)[: rows * 20].view(rows, 20)
    begin, shift = torch.arange(rows) * 5 + 3, torch.arange(rows) * 6
    expected = block_slots(pages, begin, shift, length, page=page)
    for mine, its in zip(kernel(device, block_slots)(pages, begin, shift, length, page=page), expected, strict=True):
        assert torch.equal(mine, its)
