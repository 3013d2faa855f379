"""Perplexity by transformers with bitsandbytes' layers of the tokens that an eval artifact holds, against its own.

usage: ppl_bnb.py MODEL EVAL.h5 [N_WINDOWS]    (needs bitsandbytes, torch, transformers, h5py, hdf5plugin; gguf for .gguf)

MODEL is the directory or .gguf file that was evaluated; EVAL.h5 was written by qsweep-evaluate --dump tokens for an
nf4, fp4 or int8 point. Every linear of the decoder blocks is quantised here by bitsandbytes from the model's f32
weights, with the point's block, double quantisation and compute dtype (int8: threshold), on the CPU. Prints both
perplexities, their relative difference and that of the mean NLL of the windows. Exit status 1 when the perplexities
differ by more than 0.001. With FAST=1 in the environment its kernel for CPUs with AVX512-BF16 runs, which rounds largest
magnitudes to bf16; else the path that all devices share. With ROWS=1 the outliers of an int8 point are decided by single
inputs, as qsweep does, instead of by columns over a whole window: then bitsandbytes chooses the codes alone.
"""
import os
import pathlib
import sys

import bitsandbytes as bnb
import h5py
import numpy as np
import torch

from interop_common import perplexity, read_eval, torch_logits
from ppl_transformers import load_model

FAST, ROWS = (os.environ.get(name) == "1" for name in ("FAST", "ROWS"))
COMPUTE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def as_4bit(linear, point):
    nested, compute = "nodq" not in point["variant"], COMPUTE[point["variant"].split("-")[-1]]
    layer = bnb.nn.Linear4bit(linear.in_features, linear.out_features, bias=linear.bias is not None,
                              compute_dtype=compute, compress_statistics=nested, quant_type=point["method"])
    layer.weight = bnb.nn.Params4bit(linear.weight.data, requires_grad=False, compress_statistics=nested,
                                     quant_type=point["method"], blocksize=point["group_size"], module=layer)
    layer.bias = linear.bias
    layer.support_avx512bf16_for_cpu = FAST
    return layer.to("cpu")


class RowwiseInt8(torch.nn.Module):
    """Products as pipeline/backend/packed.h defines them, written anew from codes that bitsandbytes chose."""

    def __init__(self, codes, scb, bias, threshold):
        super().__init__()
        self.codes, self.scb, self.bias, self.threshold = codes.float(), scb, bias, threshold
        self.weights = (self.codes * self.scb[:, None] / 127).half().float()

    def forward(self, x):
        x = x.half().float()
        outlier = (x.abs() >= self.threshold) & (self.threshold > 0)
        rest = x.masked_fill(outlier, 0)
        scale = rest.abs().amax(-1, keepdim=True)
        codes = torch.round(rest * (1 / scale.clamp(min=1e-30) * 127))
        y = (codes @ self.codes.t()) * (scale * self.scb) / 127 ** 2 + (x * outlier) @ self.weights.t()
        return (y if self.bias is None else y + self.bias.half().float()).half().float()


def as_int8(linear, point):
    threshold = float(point["variant"].removeprefix("thr") or 6)
    if ROWS:
        codes, scb, _ = bnb.functional.int8_vectorwise_quant(linear.weight.data.half())
        return RowwiseInt8(codes, scb, linear.bias, threshold)
    layer = bnb.nn.Linear8bitLt(linear.in_features, linear.out_features, bias=linear.bias is not None,
                                has_fp16_weights=False, threshold=threshold)
    layer.weight = bnb.nn.Int8Params(linear.weight.data, requires_grad=False, has_fp16_weights=False)
    layer.bias = linear.bias
    return layer.to("cpu")


def quantise(model, point):
    convert, n = as_int8 if point["method"] == "int8" else as_4bit, 0
    for block in model.model.layers:
        for part in (block.self_attn, block.mlp):
            for name, linear in list(part.named_children()):
                if isinstance(linear, torch.nn.Linear):
                    setattr(part, name, convert(linear, point).eval())
                    n += 1
    return n


def read_point(path):
    with h5py.File(path) as f:
        config = f["config"].attrs
        return {name: config[name].decode() for name in ("id", "method", "variant")} | \
            {"group_size": int(config["group_size"])}


def main():
    tokens, mine, *_ = read_eval(sys.argv[2])
    tolerance, point, n_windows = 1e-3, read_point(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else len(tokens)
    tokens, mine = tokens[:n_windows], mine[:n_windows]
    model = load_model(pathlib.Path(sys.argv[1]))
    n = quantise(model, point)
    b, nll = perplexity(torch_logits(model), tokens, mine.shape[1])
    a = float(np.exp(mine.mean(dtype=np.float64)))
    print(f"{point['id']}: {n} linears by bitsandbytes {bnb.__version__}, {len(tokens)} windows of {tokens.shape[1]}")
    print(f"ppl qsweep {a:.4f}  bitsandbytes {b:.4f}  relative {a / b - 1:+.2e} (limit {tolerance:g})")
    print(f"mean NLL of a window: largest difference {np.abs(nll.mean(1) - mine.mean(1)).max():.1e} nats")
    sys.exit(0 if abs(a / b - 1) <= tolerance else 1)


if __name__ == "__main__":
    main()
