"""Makes tests/fixtures/gguf: random blocks of every supported type with the values gguf-py gives them, and
digests of tensors of SmolLM2's GGUF file.

usage: make_gguf_vectors.py OUT_DIR [SMOLLM2.gguf]        (needs gguf, numpy, xxhash)

OUT_DIR/<type>.bytes   3 rows of 512 elements as stored: random codes, scales of either sign in f16
OUT_DIR/<type>.f32     float32 LE [3, 512]
OUT_DIR/smollm2.csv    role,layer,xxh3_128 of the tensor's float32 LE values in Hugging Face row order
"""
import pathlib
import sys

import gguf
import numpy as np
import xxhash

N_ROWS, N_COLS = 3, 512

# type: byte offsets of the f16 fields of a block
HALVES = {"Q8_0": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q2_K": (80, 82),
          "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
# The same, of types that came later: the numbers drawn for those above stay what they were.
LATER = {"IQ4_NL": (0,), "IQ4_XS": (0,)}


def write_vectors(out, name, halves, rng):
    kind = gguf.GGMLQuantizationType[name]
    block_elems, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    n_blocks = N_ROWS * N_COLS // block_elems
    blocks = rng.integers(0, 256, (n_blocks, block_bytes), dtype=np.uint8)
    for at in halves:
        # Every magnitude from subnormal to large, and zero.
        scales = (rng.standard_normal(n_blocks) * 2.0 ** rng.integers(-20, 6, n_blocks)).astype("<f2")
        scales[0] = 0
        blocks[:, at:at + 2] = scales.view(np.uint8).reshape(-1, 2)
    values = gguf.quants.dequantize(blocks.reshape(N_ROWS, -1), kind).astype("<f4")
    assert values.shape == (N_ROWS, N_COLS) and np.isfinite(values).all()
    blocks.tofile(out / f"{name.lower()}.bytes")
    values.tofile(out / f"{name.lower()}.f32")


def write_halves(out, rng):
    """The 16- and 32-bit types: any finite bit pattern."""
    n = N_ROWS * N_COLS
    f16 = rng.integers(0, 65536, n).astype("<u2")
    f16[(f16 & 0x7c00) == 0x7c00] &= 0x83ff
    bf16 = rng.integers(0, 65536, n).astype("<u2")
    bf16[(bf16 & 0x7f80) == 0x7f80] &= 0x807f
    f32 = rng.standard_normal(n).astype("<f4")
    for name, data in (("F16", f16), ("BF16", bf16), ("F32", f32)):
        raw = data.view("<f2") if name == "F16" else data.view(np.uint8) if name == "BF16" else data
        values = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[name])
        data.tofile(out / f"{name.lower()}.bytes")
        values.astype("<f4").tofile(out / f"{name.lower()}.f32")


SAMPLES = [("q_proj", 0), ("k_proj", 0), ("v_proj", 13), ("o_proj", 29), ("gate_proj", 7), ("up_proj", 15),
           ("down_proj", 29), ("k_proj", 29), ("input_layernorm", 7), ("embed_tokens", 0), ("norm", 0)]
NAMES = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate",
         "up_proj": "ffn_up", "down_proj": "ffn_down", "input_layernorm": "attn_norm"}
WHOLE = {"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}
HEADS = {"q_proj": 9, "k_proj": 3}


def write_digests(out, path):
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    with open(out / "smollm2.csv", "w") as stream:
        print("role,layer,xxh3_128", file=stream)
        for role, layer in SAMPLES:
            tensor = tensors[WHOLE.get(role) or f"blk.{layer}.{NAMES[role]}.weight"]
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype("<f4")
            if role in HEADS:  # rotated pairs back to rotated halves
                n_rows = values.shape[0]
                values = values.reshape(HEADS[role], -1, 2, values.shape[1]).swapaxes(1, 2).reshape(n_rows, -1)
            print(role, layer, xxhash.xxh3_128_hexdigest(np.ascontiguousarray(values).tobytes()), sep=",", file=stream)


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(6)
    for name, halves in HALVES.items():
        write_vectors(out, name, halves, rng)
    write_halves(out, rng)
    for name, halves in LATER.items():
        write_vectors(out, name, halves, rng)
    if len(sys.argv) > 2:
        write_digests(out, sys.argv[2])


main()
