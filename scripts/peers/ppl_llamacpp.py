"""Perplexity by llama.cpp of the tokens that an eval artifact holds, against the artifact's own.

usage: ppl_llamacpp.py MODEL.gguf EVAL.h5 [TOLERANCE]      (needs llama-cpp-python, numpy, h5py, hdf5plugin)

MODEL.gguf holds the evaluated weights in F32 (convert_gguf.py IN OUT F32), since llama.cpp would multiply others in
low precision. EVAL.h5 is fp.eval.h5 of --protocol llamacpp, written with --dump tokens. Every window starts with an
empty cache, as in llama-perplexity. Exit status 1 when the relative difference is over TOLERANCE (default 0.001).
"""
import sys

import llama_cpp

from interop_common import compare_windows, read_eval


def main():
    n_ctx, tolerance = read_eval(sys.argv[2])[0].shape[1], float(sys.argv[3]) if len(sys.argv) > 3 else 1e-3
    f32 = llama_cpp.GGML_TYPE_F32
    model = llama_cpp.Llama(sys.argv[1], n_ctx=n_ctx, n_batch=n_ctx, n_ubatch=n_ctx, logits_all=True, type_k=f32, type_v=f32,
                            flash_attn=False, verbose=False)

    def logits_of(window):
        model.reset()
        model.eval([int(t) for t in window])
        return model.scores

    sys.exit(0 if compare_windows("llama.cpp", logits_of, sys.argv[2], tolerance) else 1)


main()
