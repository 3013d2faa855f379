"""Quantises a Llama-type GGUF model with GPTQModel on the CPU and measures the perplexity of its checkpoint.

usage: gptqmodel_run.py MODEL.gguf CALIB EVAL BITS WORK_DIR [--group 64] [--damp X] [--no-gar] [--asym]
                         [--dtype float32|bfloat16] [--quantize-only]
       (needs torch, transformers, gguf, safetensors, gptqmodel; h5py and hdf5plugin for .h5 files)

CALIB and EVAL hold the tokens, int32 [n, length]: a .npy file, the calib.h5 of qsweep-calibrate
(/calibration/tokens), or the fp.eval.h5 of qsweep-evaluate --dump tokens (/dump/tokens), so that both sides see
the same. WORK_DIR gets a clean copy of the model (kept for the next run) and the checkpoint. The perplexity
follows the protocol hf: windows of EVAL, first token unscored, fp32, weights de-quantised here from the packed
checkpoint. Prints one JSON object; quantize_s is the time inside quantize() alone.
"""
import argparse
import json
import os
import pathlib
import sys
import time

import gptqmodel_settings  # noqa: F401 (first)
import numpy as np
import torch
import transformers


def read_tokens(path):
    if path.endswith(".npy"):
        return np.load(path)
    import h5py
    import hdf5plugin  # noqa: F401 (registers the filter)
    with h5py.File(path) as f:
        return f["calibration/tokens" if "calibration/tokens" in f else "dump/tokens"][:]


def clean_copy(gguf, target):
    """A model that came from GGUF cannot be saved as it is: its state goes into a fresh one, in fp32."""
    if (target / "config.json").exists():
        return
    loaded = transformers.AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name,
                                                               dtype=torch.float32)
    config = loaded.config.to_dict()
    config.pop("quantization_config", None)
    fresh = transformers.AutoModelForCausalLM.from_config(type(loaded.config).from_dict(config), dtype=torch.float32)
    fresh.load_state_dict(loaded.state_dict())
    fresh.save_pretrained(target)
    transformers.AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(target)


def quantize(source, target, tokens, args):
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
    options = {"bits": args.bits, "group_size": args.group, "sym": not args.asym, "desc_act": False,
               "act_group_aware": not args.no_gar}
    if args.damp is not None:
        options["damp_percent"] = args.damp
    config = QuantizeConfig(**options)
    model = GPTQModel.load(str(source), config, backend=BACKEND.GPTQ_TORCH, dtype=getattr(torch, args.dtype))
    samples = [{"input_ids": torch.from_numpy(row.astype(np.int64))[None],
                "attention_mask": torch.ones((1, len(row)), dtype=torch.int64)} for row in tokens]
    start = time.perf_counter()
    model.quantize(samples, batch_size=1, backend=BACKEND.GPTQ_TORCH)
    seconds = time.perf_counter() - start
    model.save(str(target))
    return seconds, {name: getattr(config, name) for name in ("damp_percent", "act_group_aware", "mse")}


def unpack(words, bits, axis):
    """Codes of little-endian bit streams of 32-bit words along an axis (3-bit codes straddle words)."""
    words = np.moveaxis(words.astype(np.uint32), axis, -1)
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1, bitorder="little")
    n = stream.shape[-1] // bits
    weights = (1 << np.arange(bits)).astype(np.int32)
    codes = (stream[..., :n * bits].reshape(stream.shape[:-1] + (n, bits)) * weights).sum(-1)
    return np.moveaxis(codes, -1, axis)


def dequantize(tensors, prefix, bits, v1):
    """W[out, in] of a checkpoint's layer: scale[group] * (code - zero), zero stored minus one in format v1."""
    codes = unpack(tensors[prefix + ".qweight"].numpy().view(np.uint32), bits, 0)
    zeros = unpack(tensors[prefix + ".qzeros"].numpy().view(np.uint32), bits, 1)
    zeros = (zeros + (1 if v1 else 0)) & ((1 << bits) - 1)
    group = tensors[prefix + ".g_idx"].numpy()
    codes = codes[:len(group)]
    scales = tensors[prefix + ".scales"].float().numpy()
    return torch.from_numpy(((codes - zeros[group]) * scales[group]).T.astype(np.float32))


def load_checkpoint(model, path, bits):
    from safetensors.torch import load_file
    tensors = {}
    for file in sorted(path.glob("*.safetensors")):
        tensors.update(load_file(file))
    meta = json.loads((path / "config.json").read_text())["quantization_config"]
    v1 = meta.get("checkpoint_format", meta.get("format", "gptq")) == "gptq"
    state, n = model.state_dict(), 0
    for name in list(state):
        prefix = name.removesuffix(".weight")
        if prefix + ".qweight" in tensors:
            state[name].copy_(dequantize(tensors, prefix, bits, v1))
            n += 1
    return n


def perplexity(model, tokens):
    total, n = 0.0, 0
    for row in torch.from_numpy(tokens.astype(np.int64)):
        with torch.no_grad():
            logits = model(row[None], use_cache=False).logits[0, :-1]
        loss = torch.nn.functional.cross_entropy(logits, row[1:], reduction="none").double()
        total, n = total + loss.sum().item(), n + len(loss)
    return float(np.exp(total / n))


def main():
    parser = argparse.ArgumentParser()
    for name in ("gguf", "calib", "eval"):
        parser.add_argument(name)
    parser.add_argument("bits", type=int)
    parser.add_argument("work", type=pathlib.Path)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--damp", type=float)
    parser.add_argument("--no-gar", action="store_true")
    parser.add_argument("--asym", action="store_true")
    parser.add_argument("--dtype", default="float32", help="that the model is calibrated in")
    parser.add_argument("--quantize-only", action="store_true", help="no perplexity")
    args = parser.parse_args()
    for name in ("gguf", "calib", "eval"):
        setattr(args, name, os.path.abspath(getattr(args, name)))
    args.work = args.work.absolute()
    args.work.mkdir(parents=True, exist_ok=True)
    os.chdir(args.work)  # GPTQModel leaves its log in the current directory
    source, target = args.work / "source", args.work / f"b{args.bits}-g{args.group}"
    calib, held_out = read_tokens(args.calib), read_tokens(args.eval)
    clean_copy(pathlib.Path(args.gguf), source)
    seconds, options = quantize(source, target, calib, args)
    if args.quantize_only:
        print(json.dumps({"bits": args.bits, "group": args.group, "dtype": args.dtype, "quantize_s": round(seconds, 2)}))
        return
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    reference = perplexity(model, held_out)
    n = load_checkpoint(model, target, args.bits)
    print(json.dumps({"bits": args.bits, "group": args.group, "sym": not args.asym, **options, "matrices": n,
                      "calibration": list(calib.shape), "windows": list(held_out.shape), "quantize_s": round(seconds, 2),
                      "ppl_reference": reference, "ppl": perplexity(model, held_out)}))


if __name__ == "__main__":
    main()
