"""Whether two eval artifacts hold the same scores, bit for bit: those of a GGUF file and of the numbers that the gguf package
reads from it.

usage: same_scores.py A.eval.h5 B.eval.h5                       (needs h5py, hdf5plugin, numpy)

Exit status 1 when a position differs.
"""
import sys

import numpy as np

from interop_common import read_eval


def main():
    (tokens, nll, *_), (other_tokens, other, *_) = read_eval(sys.argv[1]), read_eval(sys.argv[2])
    same = np.array_equal(tokens, other_tokens) and np.array_equal(nll, other)
    most = float(np.abs(nll - other).max()) if nll.shape == other.shape else float("inf")
    print(f"{nll.size} positions, largest difference {most:g} (limit 0) {'ok' if same else 'FAILED'}")
    sys.exit(0 if same else 1)


main()
