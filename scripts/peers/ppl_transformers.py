"""Perplexity by transformers (fp32) of the tokens that an eval artifact holds, against the artifact's own.

usage: ppl_transformers.py MODEL EVAL.h5 [QUANT.h5]     (needs torch, transformers, h5py, hdf5plugin; gguf for a .gguf)

MODEL is the directory or .gguf file that was evaluated; EVAL.h5 (of any protocol) was written by qsweep-evaluate
--dump tokens; QUANT.h5 is the point's quant artifact, whose codes are de-quantised here and take the place of the
linears. Prints both perplexities, their relative difference, the largest difference of a position, and the median norm
of the last window's residual stream before each block, where a model that runs away shows it. Exit status 1 when the
relative difference is over 0.0005.
"""
import pathlib
import sys

import h5py
import numpy as np
import torch
import transformers

from interop_common import compare_windows, dequantise, read_eval, torch_logits


def load_model(path):
    if path.suffix == ".gguf":
        where, how = str(path.parent), {"gguf_file": path.name}
    else:
        where, how = str(path), {}
    model = transformers.AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, attn_implementation="eager", **how)
    return model.eval()


def quantise(model, path):
    with h5py.File(path) as f:
        for layer, block in enumerate(model.model.layers):
            for part in (block.self_attn, block.mlp):
                for name, linear in part.named_children():
                    if isinstance(linear, torch.nn.Linear):
                        linear.weight.data = torch.from_numpy(dequantise(f[f"layers/{layer}/{name}"]))


def residual_norms(model, window):
    with torch.no_grad():
        states = model(torch.from_numpy(window.astype(np.int64))[None], output_hidden_states=True).hidden_states[:-1]
    return [float(h[0].norm(dim=-1).median()) for h in states]


def main():
    model = load_model(pathlib.Path(sys.argv[1]))
    if len(sys.argv) > 3:
        quantise(model, sys.argv[3])
    fine = compare_windows("transformers", torch_logits(model), sys.argv[2], 5e-4)
    norms = residual_norms(model, read_eval(sys.argv[2])[0][-1])
    print("norms before blocks:", *(f"{norm:.4g}" for norm in norms))
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
