"""Makes tests/fixtures/bnb: matrices as bitsandbytes quantises them on the CPU, and products of its layers.

usage: make_bnb_fixtures.py OUT_DIR                        (needs bitsandbytes, torch, numpy)

All numbers are little-endian. OUT_DIR/<matrix>.bin:
  i64 n_out, n_in; weights f32 [n_out, n_in], exact in the type they were quantised in; then records up to the end:
  i64 kind (0 nf4, 1 fp4, 2 int8), block, double quantisation (0, 1), values follow (0, 1)
  kinds 0, 1: codes u8 [(n + 1) / 2], first of two in the high half; absmax f32 [n_blocks], or with double quantisation
              u8 [n_blocks], f32 [ceil(n_blocks / 256)], f32 offset; de-quantised values f32 [n] when they follow
  kind 2:     codes i8 [n_out, n_in], row maxima f32 [n_out]
OUT_DIR/products.bin:
  i64 n_out, n_in, n; weights f32 [n_out, n_in], bias f32 [n_out], x f32 [n, n_in] with magnitudes above 6 in some rows;
  y f32 [n, n_out] of Linear4bit (nf4, block 64, double quantisation) with compute dtype fp32, bf16, fp16, then of
  Linear8bitLt, threshold 6, each row of x in a call of its own, in f16.
"""
import pathlib
import sys

import bitsandbytes as bnb
import bitsandbytes.functional as F
import numpy as np
import torch

KINDS = ("nf4", "fp4", "int8")


def put(file, *arrays):
    for a in arrays:
        a = a.detach().float().numpy() if isinstance(a, torch.Tensor) and a.is_floating_point() else np.asarray(a)
        a = a.astype("<f4") if a.dtype.kind == "f" else a
        file.write(np.ascontiguousarray(a).tobytes())


def put_ints(file, *values):
    file.write(np.array(values, "<i8").tobytes())


def put_4bit(file, w, kind, block, nested, values):
    codes, state = F.quantize_4bit(w, blocksize=block, quant_type=kind, compress_statistics=nested)
    put_ints(file, KINDS.index(kind), block, nested, values)
    put(file, codes.numpy().reshape(-1))
    if nested:
        put(file, state.absmax.numpy(), state.state2.absmax, state.offset)
    else:
        put(file, state.absmax)
    if values:
        put(file, F.dequantize_4bit(codes, state))


def put_int8(file, w):
    codes, scales, _ = F.int8_vectorwise_quant(w.to(torch.float16))
    put_ints(file, 2, w.shape[1], 0, 0)
    put(file, codes.numpy(), scales)


def make_matrix(out, name, w, records):
    with open(out / f"{name}.bin", "wb") as file:
        put_ints(file, *w.shape)
        put(file, w)
        for record in records:
            put_4bit(file, w, *record)
        put_int8(file, w)


def make_products(out, rng):
    n_out, n_in, n = 40, 192, 4
    w = torch.from_numpy(rng.standard_normal((n_out, n_in)).astype(np.float32) * 0.05)
    bias = torch.from_numpy(rng.standard_normal(n_out).astype(np.float32))
    x = rng.standard_normal((n, n_in)).astype(np.float32)
    x[1, 7], x[1, 100], x[2, 100], x[3, :9] = 11.5, -30.25, 6.0, np.linspace(-90, 90, 9)
    x = torch.from_numpy(x)
    with open(out / "products.bin", "wb") as file, torch.no_grad():
        put_ints(file, n_out, n_in, n)
        put(file, w, bias, x)
        for compute in (torch.float32, torch.bfloat16, torch.float16):
            layer = bnb.nn.Linear4bit(n_in, n_out, compute_dtype=compute, compress_statistics=True, quant_type="nf4")
            layer.weight = bnb.nn.Params4bit(w.clone(), requires_grad=False, compress_statistics=True, quant_type="nf4",
                                             blocksize=64, module=layer)
            layer.bias.data = bias.clone()
            layer.support_avx512bf16_for_cpu = False  # which would round largest magnitudes to bf16
            layer = layer.to("cpu").eval()
            assert layer.weight.quant_state is not None
            put(file, layer(x))
        layer = bnb.nn.Linear8bitLt(n_in, n_out, has_fp16_weights=False, threshold=6.0)
        layer.weight = bnb.nn.Int8Params(w.clone(), requires_grad=False, has_fp16_weights=False)
        layer.bias.data = bias.half()
        layer = layer.to("cpu").eval()
        put(file, torch.cat([layer(row[None].half()) for row in x]))


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(2026)
    normal = lambda *shape: torch.from_numpy(rng.standard_normal(shape).astype(np.float32) * 0.04)
    every = [(kind, block, False, False) for kind in KINDS[:2] for block in (32, 64, 128, 256, 512, 1024, 2048, 4096)]
    make_matrix(out, "blocks", normal(64, 160).to(torch.bfloat16), every)
    ragged = [(kind, 64, nested, True) for kind in KINDS[:2] for nested in (False, True)]
    make_matrix(out, "ragged_f16", normal(20, 100).to(torch.float16), ragged)
    make_matrix(out, "ragged_bf16", normal(20, 100).to(torch.bfloat16), ragged)
    make_matrix(out, "odd", normal(7, 9), [("nf4", 64, False, False), ("fp4", 64, False, False)])
    zeros = normal(8, 64)
    zeros[2:4] = 0
    zeros[6, :] = 0
    make_matrix(out, "zeros", zeros, [("nf4", 64, False, False), ("fp4", 64, False, False)])
    make_matrix(out, "nested", (normal(130, 128) * torch.linspace(0.1, 3, 130)[:, None]).to(torch.float16),
                [("nf4", 32, True, False), ("fp4", 64, True, False)])
    make_products(out, rng)


main()
