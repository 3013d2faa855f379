"""Squared errors of GGUF files against the numbers of another one, over the matrices of the layers.

usage: compare_gguf.py NUMBERS.gguf FILE.gguf...        (needs gguf, numpy)

NUMBERS.gguf holds the weights in F32 or F16. Of each type that a file has prints |E|^2 / |W|^2 over its matrices.
"""
import collections
import sys

import gguf
import numpy as np


def values(tensor):
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)


def main():
    numbers = {t.name: t for t in gguf.GGUFReader(sys.argv[1]).tensors}
    for path in sys.argv[2:]:
        sums = collections.defaultdict(lambda: np.zeros(2))
        for tensor in gguf.GGUFReader(path).tensors:
            if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
                exact = values(numbers[tensor.name])
                sums[tensor.tensor_type.name] += ((values(tensor) - exact) ** 2).sum(), (exact ** 2).sum()
        print(path, *(f"{kind} {error / weight:.6f}" for kind, (error, weight) in sorted(sums.items())))


main()
