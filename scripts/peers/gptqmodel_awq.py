"""Quantises a Llama-type model with GPTQModel's AWQ on the CPU and measures the perplexity of its checkpoint.

usage: gptqmodel_awq.py MODEL.gguf|DIR CALIB EVAL BITS WORK_DIR [--group 64] [--sym] [--clip-products] [--dtype float32]
       (needs torch, transformers, gguf, safetensors, gptqmodel; h5py and hdf5plugin for .h5 files)

CALIB, EVAL, WORK_DIR and the perplexity are those of gptqmodel_run.py, whose functions it uses. The weights are
de-quantised here from the packed checkpoint (layout GEMM: words along the output channels, whose nibbles are interleaved),
and the norms that AWQ has scaled are read from it. Prints one JSON object; quantize_s is the time inside quantize() alone.

--clip-products: on a CPU nine tenths of the time go into the clip search, which multiplies every weight by every input
element by element and adds the results up group by group, ten times over. With this option the same sums come from matrix
products; the peer's own code still rounds the weights. The first matrix is searched both ways, and clip_same is the share of
its groups whose cut comes out the same.
"""
import argparse
import json
import os
import pathlib
import sys
import time

import gptqmodel_run as run  # sets what must be set before torch is there
import numpy as np
import torch
import transformers

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble i of a word holds channel ORDER[i]


@torch.inference_mode()
def best_clip(self, w, input_feat, n_grid=20, max_shrink=0.5, n_sample_token=512):
    """The largest magnitude that each group of w [n_out, n_in] keeps, [n_out, n_groups, 1]: of the bounds
    (1 - i / n_grid) max |w|, i < n_grid * max_shrink, the one with the least mean of (x (Q(w) - w))^2 over the inputs."""
    n_out, n_in = w.shape
    group = self.qcfg.group_size if self.qcfg.group_size > 0 else n_in
    x = input_feat.reshape(-1, n_in)
    x = x[::max(1, len(x) // n_sample_token)].float().reshape(-1, n_in // group, group).transpose(0, 1)
    w = w.reshape(n_out, 1, -1, group)
    largest, least = w.abs().amax(dim=-1, keepdim=True), None
    for i in range(int(max_shrink * n_grid)):
        bound, rounded = largest * (1 - i / n_grid), torch.empty_like(w)
        self._pseudo_quantize_tensor_into(torch.clamp(w, -bound, bound), rounded, abs_max=bound)
        error = (rounded - w).float().squeeze(1).permute(1, 2, 0)  # [n_groups, group, n_out]
        loss = torch.bmm(x, error).pow_(2).mean(dim=1).T.reshape(largest.shape)
        kept = bound if least is None else torch.where(loss < least, bound, kept)
        least = loss if least is None else torch.minimum(loss, least)
    return kept.squeeze(1)


def search_clips_by_products(same):
    from gptqmodel.looper.awq_processor import AWQProcessor
    own = AWQProcessor._compute_best_clip

    def search(self, w, input_feat, *args):
        found = best_clip(self, w, input_feat, *args)
        if not same:
            same.append((own(self, w, input_feat, *args) == found).double().mean().item())
            print("clip_same", same[0], w.dtype, file=sys.stderr)
        return found
    AWQProcessor._compute_best_clip = search


def quantize(source, target, tokens, args):
    from gptqmodel import BACKEND, GPTQModel
    from gptqmodel.quantization.config import AWQConfig
    same = []
    if args.clip_products:
        search_clips_by_products(same)
    config = AWQConfig(bits=args.bits, group_size=args.group, sym=args.sym)
    model = GPTQModel.load(str(source), config, backend=BACKEND.AWQ_TORCH, dtype=args.dtype and getattr(torch, args.dtype))
    samples = [{"input_ids": torch.from_numpy(row.astype(np.int64))[None],
                "attention_mask": torch.ones((1, len(row)), dtype=torch.int64)} for row in tokens]
    start = time.perf_counter()
    model.quantize(samples, batch_size=1, backend=BACKEND.AWQ_TORCH)
    seconds = time.perf_counter() - start
    model.save(str(target))
    return seconds, same


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
    parser.add_argument("--clip-products", action="store_true")
    parser.add_argument("--dtype", help="of the model while it is searched; GPTQModel itself chooses bfloat16")
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
    seconds, same = quantize(source, target, calib, args)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    n = load_checkpoint(model, target, args.group)
    print(json.dumps({"bits": args.bits, "group": args.group, "sym": args.sym, "matrices": n,
                      "calibration": list(calib.shape), "windows": list(held_out.shape), "quantize_s": round(seconds, 2), "clip_same": same,
                      "ppl": run.perplexity(model, held_out)}))


main()
