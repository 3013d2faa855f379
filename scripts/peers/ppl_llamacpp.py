"""Perplexity by llama.cpp of the tokens that an eval artifact holds, against the artifact's own.

usage: ppl_llamacpp.py MODEL.gguf EVAL.h5 [TOLERANCE]      (needs llama-cpp-python, numpy, h5py, hdf5plugin)

MODEL.gguf holds the evaluated weights in F32 (convert_gguf.py IN OUT F32), since llama.cpp would multiply others in
low precision. EVAL.h5 is fp.eval.h5 of --protocol llamacpp, written with --dump tokens. Every window starts with an
empty cache, as in llama-perplexity. Exit status 1 when the relative difference is over TOLERANCE (default 0.001).
"""
import sys

import h5py
import hdf5plugin  # noqa: F401 (registers the filter)
import llama_cpp
import numpy as np


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def main():
    with h5py.File(sys.argv[2]) as f:
        tokens, ours_nll = f["dump/tokens"][:], f["tokens/nll"][:]
        ours, name = float(f["metrics/ppl"].attrs["value"]), f["protocol"].attrs["name"].decode()
    tolerance = float(sys.argv[3]) if len(sys.argv) > 3 else 1e-3
    n_ctx, n_scored = tokens.shape[1], ours_nll.shape[1]
    first = n_ctx - 1 - n_scored
    f32 = llama_cpp.GGML_TYPE_F32
    model = llama_cpp.Llama(sys.argv[1], n_ctx=n_ctx, n_batch=n_ctx, n_ubatch=n_ctx, logits_all=True, type_k=f32, type_v=f32,
                            flash_attn=False, verbose=False)
    nll = []
    for window in tokens:
        model.reset()
        model.eval([int(t) for t in window])
        log_p = log_softmax(model.scores[first:first + n_scored])
        nll.append(-log_p[np.arange(n_scored), window[first + 1:first + 1 + n_scored]])
    nll = np.stack(nll)
    theirs = float(np.exp(nll.mean()))
    difference = ours / theirs - 1.0
    print(f"protocol {name}, {len(nll)} windows of {n_ctx}, {nll.size} positions")
    print(f"ppl qsweep {ours:.6f}  llama.cpp {theirs:.6f}  relative {difference:+.2e} (limit {tolerance:g})")
    print(f"largest difference of a position {np.abs(nll - ours_nll).max():.2e} nats")
    sys.exit(0 if abs(difference) <= tolerance else 1)


main()
