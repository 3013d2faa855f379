"""Perplexity of a quant artifact's codes under transformers: decoded here, from what packed.h says of their layout.

usage: ppl_packed.py MODEL_DIR QUANT.h5 EVAL.h5 [--windows N]      (needs torch, transformers, h5py, hdf5plugin)

MODEL_DIR is the reference as a Hugging Face directory (gptqmodel_run.py leaves one in WORK_DIR/source); EVAL.h5 is
the fp.eval.h5 of qsweep-evaluate --dump tokens. Protocol hf, fp32. Integer codes alone (RTN, GPTQ); an artifact
that changes anything beside its matrices is refused. Also prints the size of the residual stream, layer by layer:
a quantised model that runs away shows it there.
"""
import argparse
import math

import h5py
import hdf5plugin  # noqa: F401 (registers the filter)
import numpy as np
import torch
import transformers

PARTS = {"q_proj": "self_attn", "k_proj": "self_attn", "v_proj": "self_attn", "o_proj": "self_attn",
         "gate_proj": "mlp", "up_proj": "mlp", "down_proj": "mlp"}


def decode(group, n_out, n_in, bits, group_size):
    stream = np.unpackbits(group["codes"][:].reshape(n_out, -1), axis=1, bitorder="little")
    codes = stream[:, :n_in * bits].reshape(n_out, n_in, bits) @ (1 << np.arange(bits))
    scales = group["scales"][:].astype(np.float32)
    zeros = group["zeros"][:].astype(np.float32) if "zeros" in group else np.full_like(scales, 1 << (bits - 1))
    at = np.arange(n_in) // (n_in if group_size == -1 else group_size)
    stored = scales[:, at] * (codes.astype(np.float32) - zeros[:, at])
    if "perm" not in group:
        return stored
    weights = np.empty_like(stored)
    weights[:, group["perm"][:]] = stored
    return weights


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("quant")
    parser.add_argument("eval")
    parser.add_argument("--windows", type=int, default=10**9)
    args = parser.parse_args()
    with h5py.File(args.eval) as f:
        windows = torch.tensor(f["dump/tokens"][:][:args.windows].astype(np.int64))
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    with h5py.File(args.quant) as f:
        bits, group_size = int(f["spec"].attrs["bits"]), int(f["spec"].attrs["group_size"])
        for n, layer in enumerate(model.model.layers):
            others = set(f[f"layers/{n}"]) - set(PARTS)
            assert not others, f"layer {n} also holds {others}"
            for name, part in PARTS.items():
                linear = getattr(getattr(layer, part), name)
                weights = decode(f[f"layers/{n}/{name}"], *linear.weight.shape, bits, group_size)
                linear.weight.data = torch.tensor(weights)
    nll = count = 0
    with torch.no_grad():
        for window in windows:
            out = model(window[None], output_hidden_states=True)
            nll += torch.nn.functional.cross_entropy(out.logits[0, :-1].double(), window[1:], reduction="sum").item()
            count += len(window) - 1
    norms = [f"{h[0].norm(dim=-1).median().item():.4g}" for h in out.hidden_states[:-1]]
    print(f"ppl {math.exp(nll / count):.6g} ({count} positions); median norm before each block of the last window:",
          " ".join(norms))


if __name__ == "__main__":
    main()
