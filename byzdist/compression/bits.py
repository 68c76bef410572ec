"""Packing of small whole numbers, a fixed number of bits each, into bytes.

The high bits of a code fill whole bytes, one plane of bytes after the other. Of the rest, 1 to 7 bits a code, each group of 8 codes
fills as many bytes as there are bits.
"""

import torch
from torch import Tensor

_GROUP = 8  # codes


def packed_length(count: int, bits: int) -> int:
    """Return the bytes of ``count`` codes of ``bits`` bits."""
    planes, rest = divmod(bits, 8)
    return count * planes + -(-count // _GROUP) * rest


def pack(codes: Tensor, bits: int, out: Tensor) -> None:
    """Write codes (int64, each in 0..2^bits - 1) into ``out``, `packed_length` bytes (uint8)."""
    count, (planes, rest) = len(codes), divmod(bits, 8)
    for plane in range(planes):
        out[plane * count : (plane + 1) * count] = (codes >> (rest + 8 * plane)) & 255
    if rest:
        groups = torch.zeros(-(-count // _GROUP) * _GROUP, dtype=torch.int64, device=codes.device)
        groups[:count] = codes & ((1 << rest) - 1)
        words = (groups.view(-1, _GROUP) << _shifts(rest, codes.device)).sum(1)  # at most 56 bits
        out[planes * count :] = words.view(torch.uint8).view(-1, 8)[:, :rest].reshape(-1)


def unpack(packed: Tensor, count: int, bits: int) -> Tensor:
    """Return the ``count`` codes (int64) that `pack` wrote; any bytes give some codes."""
    planes, rest = divmod(bits, 8)
    codes = torch.zeros(count, dtype=torch.int64, device=packed.device)
    for plane in range(planes):
        codes += packed[plane * count : (plane + 1) * count].long() << (rest + 8 * plane)
    if rest:
        groups = torch.zeros(-(-count // _GROUP), 8, dtype=torch.uint8, device=packed.device)
        groups[:, :rest] = packed[planes * count :].view(-1, rest)
        words = groups.view(torch.int64) >> _shifts(rest, packed.device)
        codes += (words & ((1 << rest) - 1)).view(-1)[:count]
    return codes


def _shifts(rest: int, device: torch.device) -> Tensor:
    return torch.arange(0, rest * _GROUP, rest, device=device)
