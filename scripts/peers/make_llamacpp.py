"""A GGUF file as llama.cpp's own quantiser (llama-quantize) makes it, for evaluate --checkpoint (docs/interop.md).

usage: make_llamacpp.py IN.gguf OUT.gguf TYPE [pure]           (needs llama-cpp-python)

TYPE is the last part of an LLAMA_FTYPE_MOSTLY_ name: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K_S, Q3_K_M, Q4_K_S,
Q5_K_S, Q6_K, IQ4_NL, IQ4_XS. With `pure` all matrices of the layers are of that type, not of its mixture, and embedding
and head F16.
"""
import ctypes
import sys

import llama_cpp


def main():
    source, target, kind = sys.argv[1:4]
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + kind)
    params.allow_requantize = True
    if sys.argv[4:] == ["pure"]:
        params.pure = True
        params.token_embedding_type = params.output_tensor_type = llama_cpp.GGML_TYPE_F16
    sys.exit(llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)))


main()
