"""GGUF files against one another.

usage: compare_gguf.py NUMBERS.gguf FILE.gguf...               (needs gguf, numpy)
       compare_gguf.py --types OURS.gguf PEERS.gguf [OURS.gguf PEERS.gguf]...

Without --types: NUMBERS.gguf holds the weights in F32 or F16; of each type that a file has prints |E|^2 / |W|^2 over its
matrices of the layers. With it: whether both files of a pair have the same tensors of the same types and the same
general.file_type, tensor by tensor, and the bytes of both; exit status 1 when some have not.
"""
import collections
import os
import sys

import gguf
import numpy as np


def values(tensor):
    return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)


def types(path):
    """{tensor: its type}, the file type with them; bytes of the tensors."""
    reader = gguf.GGUFReader(path)
    found = {t.name: t.tensor_type.name for t in reader.tensors}
    found["general.file_type"] = gguf.LlamaFileType(int(reader.fields["general.file_type"].contents())).name
    return found, sum(int(t.n_bytes) for t in reader.tensors)


def compare_types(ours, theirs):
    (a, a_bytes), (b, b_bytes) = types(ours), types(theirs)
    different = [name for name in sorted(a.keys() | b.keys()) if a.get(name) != b.get(name)]
    for name in different[:8]:
        print(f"  {name}: {a.get(name)}, the peer's {b.get(name)}")
    counts = collections.Counter(kind for name, kind in a.items() if name.endswith(".weight"))
    print(f"{os.path.basename(ours)}: {len(a) - 1} tensors ({', '.join(f'{k} {n}' for k, n in sorted(counts.items()))}), "
          f"{a_bytes} bytes, the peer's {b_bytes}; {len(different)} types differ (limit 0) {'FAILED' if different else 'ok'}")
    return not different


def main():
    if sys.argv[1] == "--types":
        same = [compare_types(*pair) for pair in zip(sys.argv[2::2], sys.argv[3::2], strict=True)]
        sys.exit(0 if all(same) else 1)
    numbers = {t.name: t for t in gguf.GGUFReader(sys.argv[1]).tensors}
    for path in sys.argv[2:]:
        sums = collections.defaultdict(lambda: np.zeros(2))
        for tensor in gguf.GGUFReader(path).tensors:
            if tensor.name.startswith("blk.") and len(tensor.shape) == 2:
                exact = values(numbers[tensor.name])
                sums[tensor.tensor_type.name] += ((values(tensor) - exact) ** 2).sum(), (exact ** 2).sum()
        print(path, *(f"{kind} {error / weight:.6f}" for kind, (error, weight) in sorted(sums.items())))


main()
