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
import hdf5plugin  # noqa: F401 (registers the filter)
import numpy as np
import torch
import transformers

from interop_common import dequantise


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


def read_eval(path):
    with h5py.File(path) as f:
        protocol = f["protocol"].attrs
        nll = f["tokens/nll"][:]
        return {"tokens": f["dump/tokens"][:], "nll": nll, "ppl": float(f["metrics/ppl"].attrs["value"]),
                "name": protocol["name"].decode(), "n_ctx": int(protocol["n_ctx"]), "n_scored": nll.shape[1]}


def window_nll(model, window, first, n_scored):
    with torch.no_grad():
        logits = model(torch.from_numpy(window.astype(np.int64))[None], use_cache=False).logits[0].double()
    log_p = torch.log_softmax(logits[first:first + n_scored], dim=-1)
    targets = torch.from_numpy(window[first + 1:first + 1 + n_scored].astype(np.int64))
    return -log_p[torch.arange(n_scored), targets].numpy()


def residual_norms(model, window):
    with torch.no_grad():
        states = model(torch.from_numpy(window.astype(np.int64))[None], output_hidden_states=True).hidden_states[:-1]
    return [float(h[0].norm(dim=-1).median()) for h in states]


def main():
    ours = read_eval(sys.argv[2])
    tolerance = 5e-4
    first = ours["n_ctx"] - 1 - ours["n_scored"]
    model = load_model(pathlib.Path(sys.argv[1]))
    if len(sys.argv) > 3:
        quantise(model, sys.argv[3])
    nll = np.stack([window_nll(model, w, first, ours["n_scored"]) for w in ours["tokens"]])
    theirs = float(np.exp(nll.mean()))
    difference = ours["ppl"] / theirs - 1.0
    print(f"protocol {ours['name']}, {len(nll)} windows of {ours['n_ctx']}, {nll.size} positions")
    print(f"ppl qsweep {ours['ppl']:.6f}  transformers {theirs:.6f}  relative {difference:+.2e} (limit {tolerance:g})")
    print(f"largest difference of a position {np.abs(nll - ours['nll']).max():.2e} nats")
    print("norms before blocks:", *(f"{norm:.4g}" for norm in residual_norms(model, ours["tokens"][-1])))
    sys.exit(0 if abs(difference) <= tolerance else 1)


if __name__ == "__main__":
    main()
