"""The numbers of ``bench.core.rng`` in one kernel for CUDA devices: the same bits as on a CPU.

Written in torch's operations a draw of normals is 75 kernels, and a purification step waits
for their launches. Imported only where a CUDA device draws: Triton comes with torch for CUDA,
and wants a C compiler at its first use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_KINDS = {"bits": 0, "uniform": 1, "normal": 2}


# Not specialised: each new property of a number, such as being 1, would be compiled anew.
@triton.jit(do_not_specialize=["images", "draws", "k0", "k1", "numbers"])
def _draw(  # type: ignore[no-untyped-def]  # Triton's own types are no Python types
    out,
    knots,
    steps,
    images,
    draws,
    k0,
    k1,
    numbers,
    KIND: tl.constexpr,  # noqa: N803  # constants are in capitals in Triton
    BLOCK: tl.constexpr,  # noqa: N803  # the same
):
    """Encrypt BLOCK counters of one row, four words each, and store them as one kind."""
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    image, draw = tl.load(images + row), tl.load(draws + row)
    zero = tl.full((BLOCK,), 0, tl.uint32)
    c0 = block.to(tl.uint32)
    c1 = zero + (image & 0xFFFFFFFF).to(tl.uint32)
    c2 = zero + (draw & 0xFFFFFFFF).to(tl.uint32)
    c3 = zero + ((image >> 32) & 0xFFFFFFFF).to(tl.uint32)
    key0, key1 = zero + k0.to(tl.uint32), zero + k1.to(tl.uint32)
    m0, m1 = zero + 0xD2511F53, zero + 0xCD9E8D57
    for _ in tl.static_range(10):
        h0, l0 = tl.umulhi(c0, m0), c0 * m0
        h1, l1 = tl.umulhi(c2, m1), c2 * m1
        c0, c1, c2, c3 = h1 ^ c1 ^ key0, l1, h0 ^ c3 ^ key1, l0
        key0 += zero + 0x9E3779B9
        key1 += zero + 0xBB67AE85
    for place in tl.static_range(4):
        word = c0 if place == 0 else (c1 if place == 1 else (c2 if place == 2 else c3))
        at = block * 4 + place
        inside = at < numbers
        where = out + row * numbers + at
        if KIND == 0:
            tl.store(where, word.to(tl.int64), mask=inside)
        elif KIND == 1:
            tl.store(where, (word >> 8).to(tl.float32) * 5.9604644775390625e-08, mask=inside)
        else:
            cell = (word >> 16).to(tl.int32)
            fraction = (word & 0xFFFF).to(tl.float32)
            step = tl.load(steps + cell, mask=inside, other=0.0)
            knot = tl.load(knots + cell, mask=inside, other=0.0)
            tl.store(where, step * fraction + knot, mask=inside)


def draw(
    kind: str,
    images: Tensor,
    draws: Tensor,
    *,
    key: int,
    shape: Sequence[int],
    table: tuple[Tensor, Tensor],
) -> Tensor:
    """Draw "bits", "uniform" or "normal" numbers (M, *shape) for images and draws, both (M,).

    Bits are int64, the others float32. ``table``: the normal's knots and steps, of which other
    kinds read nothing.
    """
    rows, numbers = len(images), math.prod(shape)
    dtype = torch.int64 if kind == "bits" else torch.float32
    out = torch.empty((rows, *shape), dtype=dtype, device=images.device)
    if not out.numel():
        return out
    blocks = -(-numbers // 4)
    size = 256 if blocks > 32 else 32  # two sizes only: each is compiled anew
    with torch.cuda.device_of(images):  # type: ignore[no-untyped-call]  # torch's has no types
        _draw[(rows, triton.cdiv(blocks, size))](
            out,
            *table,
            images.contiguous(),
            draws.contiguous(),
            _signed(key & 0xFFFFFFFF),
            _signed(key >> 32),
            numbers,
            KIND=_KINDS[kind],
            BLOCK=size,
            enable_fp_fusion=False,  # product and sum of the normals are rounded one by one
        )
    return out


def _signed(word: int) -> int:
    """Write a 32-bit word as Triton's int32: larger numbers would be int64, another kernel."""
    return word - 2**32 if word >= 2**31 else word
