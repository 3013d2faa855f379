"""A GGUF file of qsweep-export as the gguf package de-quantises it, against the quant artifact it was made from.

usage: interop_gguf.py MODEL.gguf QUANT.h5 [TOLERANCE]                       (needs gguf, numpy, h5py, hdf5plugin)

Rows of Q and K are brought back to Hugging Face order where the architecture is llama. TOLERANCE is the largest difference
in units of the matrix's largest weight: 0 (default) where the codes and scales are the file's, 1e-3 for Q4_1, whose minima
are f16, and for F16. Exit status 1 when a matrix is further off.
"""
import os
import sys

import gguf
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import interop_common as common  # noqa: E402

NAMES = dict(zip(common.ROLES, ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")))


def main():
    reader = gguf.GGUFReader(sys.argv[1])
    tolerance = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    architecture = reader.fields["general.architecture"].contents()
    heads = {"q_proj": int(reader.fields[f"{architecture}.attention.head_count"].contents()),
             "k_proj": int(reader.fields[f"{architecture}.attention.head_count_kv"].contents())}
    tensors, worst, n, kinds = {t.name: t for t in reader.tensors}, 0.0, 0, set()
    for layer, role, wanted in common.artifact_matrices(sys.argv[2]):
        tensor = tensors[f"blk.{layer}.{NAMES[role]}.weight"]
        made = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(wanted.shape).astype(np.float32)
        if architecture == "llama" and role in heads:
            rows = made.reshape(heads[role], -1, 2, wanted.shape[1])  # [head, i, t, in]: row 2 i + t
            made = rows.transpose(0, 2, 1, 3).reshape(wanted.shape)
        worst = max(worst, float(np.abs(made - wanted).max() / np.abs(wanted).max()))
        kinds.add(tensor.tensor_type.name)
        n += 1
    verdict = "ok" if worst <= tolerance else "FAILED"
    print(f"{n} matrices of type {'/'.join(sorted(kinds))}, largest difference {worst:.3g} (limit {tolerance:g}) {verdict}")
    sys.exit(0 if worst <= tolerance else 1)


main()
