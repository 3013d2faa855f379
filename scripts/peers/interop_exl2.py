"""An EXL2 directory of qsweep-export, decoded by the format's description (exl2_format.py), against the quant artifact.

usage: interop_exl2.py DIR QUANT.h5                             (needs safetensors, numpy, h5py, hdf5plugin)

Every weight must be the same number. Exit status 1 when one differs.
"""
import os
import pathlib
import sys

import h5py
import numpy as np
import safetensors.numpy

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import exl2_format  # noqa: E402
import interop_common as common  # noqa: E402

PLACES = {role: ("mlp." if role in ("gate_proj", "up_proj", "down_proj") else "self_attn.") + role for role in common.ROLES}


def artifact_matrix(group):
    """Row streams of bits, groups of columns, w[o][perm[j]] = f16((code - 2^(bits - 1)) f16((c + 1)^2 f16(max / 256)))."""
    n_in, rows = int(group.attrs["n_in"]), np.unpackbits(group["codes"][:], axis=1, bitorder="little")
    groups, largest, scale_codes = group["groups"][:], group["scale_max"][:], group["scale_codes"][:]
    weights, bit = np.empty((rows.shape[0], n_in), np.float16), 0
    for g, (first, bits) in enumerate(groups):
        end = groups[g + 1][0] if g + 1 < len(groups) else n_in
        n = (end - first) * bits
        codes = (rows[:, bit:bit + n].reshape(len(rows), -1, bits).astype(np.int32) << np.arange(bits)).sum(axis=2)
        bit += n
        step = np.float16(largest[g] * np.float16(1 / 256))
        scale = ((scale_codes[:, g].astype(np.int32) + 1) ** 2).astype(np.float16) * step
        weights[:, group["perm"][first:end]] = (codes - (1 << (bits - 1))).astype(np.float16) * scale[:, None]
    return weights


def main():
    tensors, n, differing, widths = {}, 0, 0, set()
    for path in sorted(pathlib.Path(sys.argv[1]).glob("*.safetensors")):
        tensors.update(safetensors.numpy.load_file(path))
    with h5py.File(sys.argv[2]) as f:
        n_layers = max(int(name) for name in f["layers"] if name.isdigit()) + 1
        for layer in range(n_layers):
            for role in common.ROLES:
                wanted = artifact_matrix(f[f"layers/{layer}/{role}"])
                prefix = f"model.layers.{layer}.{PLACES[role]}"
                made = exl2_format.decode(tensors, prefix).T[:wanted.shape[0]]
                differing += int((made != wanted).sum())
                widths.update(int(b) for b in tensors[prefix + ".q_groups"][::2])
                n += 1
        if "layers/outer/lm_head" in f:
            wanted = artifact_matrix(f["layers/outer/lm_head"])
            differing += int((exl2_format.decode(tensors, "lm_head").T[:wanted.shape[0]] != wanted).sum())
            print(f"lm_head: {wanted.shape[0]} x {wanted.shape[1]} in {sorted(set(tensors['lm_head.q_groups'][::2].tolist()))} bits")
            n += 1
    verdict = "ok" if differing == 0 else "FAILED"
    print(f"{n} matrices of {sorted(widths)} bits, {differing} weights differ (limit 0) {verdict}")
    sys.exit(0 if differing == 0 else 1)


main()
