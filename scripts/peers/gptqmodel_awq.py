"""Quantises a Llama-type model with GPTQModel's AWQ on the CPU and measures the perplexity of its checkpoint.

usage: gptqmodel_awq.py MODEL.gguf|DIR CALIB EVAL BITS WORK_DIR [--group 64] [--sym]
       (needs torch, transformers, gguf, safetensors, gptqmodel; h5py and hdf5plugin for .h5 files)

CALIB, EVAL, WORK_DIR and the perplexity are those of gptqmodel_run.py, whose functions it uses. The weights are
de-quantised here from the packed checkpoint (layout GEMM: words along the output channels, whose nibbles are interleaved),
and the norms that AWQ has scaled are read from it. Prints one JSON object; quantize_s is the time inside quantize() alone.
"""
import argparse
import json
import os
import pathlib
import time

import gptqmodel_run as run  # sets what must be set before torch is there
import numpy as np
import torch
import transformers

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble i of a word holds channel ORDER[i]


def quantize(source, target, tokens, args):
    from gptqmodel import BACKEND, GPTQModel
    from gptqmodel.quantization.config import AWQConfig
    config = AWQConfig(bits=args.bits, group_size=args.group, sym=args.sym)
    model = GPTQModel.load(str(source), config, backend=BACKEND.AWQ_TORCH)
    samples = [{"input_ids": torch.from_numpy(row.astype(np.int64))[None],
                "attention_mask": torch.ones((1, len(row)), dtype=torch.int64)} for row in tokens]
    start = time.perf_counter()
    model.quantize(samples, batch_size=1, backend=BACKEND.AWQ_TORCH)
    seconds = time.perf_counter() - start
    model.save(str(target))
    return seconds


def nibbles(words):
    words = words.numpy().view(np.uint32)
    codes = np.empty(words.shape + (8,), dtype=np.int32)
    for i, channel in enumerate(ORDER):
        codes[..., channel] = words >> np.uint32(4 * i) & np.uint32(15)
    return codes.reshape(words.shape[0], -1)


def load_checkpoint(model, path, group):
    from safetensors.torch import load_file
    tensors = {}
    for file in sorted(path.glob("*.safetensors")):
        tensors.update(load_file(file))
    state, n = model.state_dict(), 0
    for name in list(state):
        prefix = name.removesuffix(".weight")
        if prefix + ".qweight" in tensors:
            codes, zeros = nibbles(tensors[prefix + ".qweight"]), nibbles(tensors[prefix + ".qzeros"])
            scales = tensors[prefix + ".scales"].float().numpy()
            of = np.arange(len(codes)) // group
            state[name].copy_(torch.from_numpy(((codes - zeros[of]) * scales[of]).T.astype(np.float32)))
            n += 1
        elif "norm" in name:
            state[name].copy_(tensors[name].float())
    return n


def main():
    parser = argparse.ArgumentParser()
    for name in ("gguf", "calib", "eval"):
        parser.add_argument(name)
    parser.add_argument("bits", type=int, choices=[4])
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--sym", action="store_true")
    args = parser.parse_args()
    for name in ("gguf", "calib", "eval"):
        setattr(args, name, os.path.abspath(getattr(args, name)))
    args.work = args.work.absolute()
    args.work.mkdir(parents=True, exist_ok=True)
    os.chdir(args.work)
    source, target = args.work / "source", args.work / f"awq-b{args.bits}-g{args.group}-{'sym' if args.sym else 'asym'}"
    calib, held_out = run.read_tokens(args.calib), run.read_tokens(args.eval)
    if os.path.isdir(args.gguf):
        source = pathlib.Path(args.gguf)
    else:
        run.clean_copy(pathlib.Path(args.gguf), source)
    seconds = quantize(source, target, calib, args)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    n = load_checkpoint(model, target, args.group)
    print(json.dumps({"bits": args.bits, "group": args.group, "sym": args.sym, "matrices": n,
                      "calibration": list(calib.shape), "windows": list(held_out.shape), "quantize_s": round(seconds, 2),
                      "ppl": run.perplexity(model, held_out)}))


main()
