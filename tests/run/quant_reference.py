#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""quant_reference.py - every weight format decodes to the bits of Python's gguf.

Blocks are arbitrary bytes; only their half-precision scales are made finite. Both
sides decode them, and the floats are compared as integers.
"""
import os
import subprocess
import sys

try:
    import numpy as np
    from gguf import quants
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

PROGRAM = os.path.join(os.environ.get("CECOLLM_BUILDDIR", "."), "tests/run/decode_rows")

# Where a block's half-precision numbers stand.
HALVES = {
    Type.F16: [0], Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0],
    Type.Q5_1: [0, 2], Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2],
    Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.BF16: [], Type.F32: [],
}
BLOCKS = 500
PER_ROW = 4


def blocks_of(kind, random):
    """Arbitrary bytes of BLOCKS blocks, halves finite."""
    size = GGML_QUANT_SIZES[kind][1]
    blocks = random.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
    for at in HALVES[kind]:
        halves = random.integers(0, 0x7C00, BLOCKS, dtype=np.uint16)
        halves |= random.integers(0, 2, BLOCKS, dtype=np.uint16) << np.uint16(15)
        blocks[:, at:at + 2] = halves.view(np.uint8).reshape(BLOCKS, 2)
    if kind in (Type.BF16, Type.F32):  # no exponent of infinities and NaNs
        blocks[:, -1] &= 0xBF
    blocks[0] = 0
    return blocks


def decode_here(kind, blocks):
    elements = GGML_QUANT_SIZES[kind][0] * PER_ROW
    result = subprocess.run([PROGRAM, str(int(kind)), str(elements)], input=blocks.tobytes(),
                            stdout=subprocess.PIPE, check=True)
    return np.frombuffer(result.stdout, dtype=np.uint32)


def main():
    random = np.random.default_rng(1)
    failed = 0
    print(f"1..{len(HALVES)}")
    for number, kind in enumerate(HALVES, 1):
        blocks = blocks_of(kind, random)
        rows = blocks.reshape(BLOCKS // PER_ROW, -1)
        with np.errstate(all="ignore"):
            want = quants.dequantize(rows, kind).astype(np.float32).reshape(-1)
        got = decode_here(kind, blocks)
        same = got.shape == want.shape and np.array_equal(got, want.view(np.uint32))
        print(f"{'ok' if same else 'not ok'} {number} - {kind.name}")
        failed += not same
    return 1 if failed else 0


sys.exit(main())
