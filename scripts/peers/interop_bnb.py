"""A bitsandbytes directory as transformers loads it on the CPU: perplexity beside qsweep's.

usage: interop_bnb.py DIR EVAL.h5 [--windows N] [--tolerance X] [--fast] [--columns]
       (needs torch, transformers, bitsandbytes, h5py, hdf5plugin)

DIR holds nf4, fp4 or int8: an export, with EVAL.h5 the eval artifact of the point, or a checkpoint of bitsandbytes' own, with
that of --checkpoint DIR; --dump tokens in both. Loading itself shows that keys, shapes and the JSON beside each matrix are
what bitsandbytes wants. Checked is the perplexity of the first N windows (default all) through what was loaded, within
TOLERANCE (default 0.001). Exit status 1 when it is not.

4 bits: bitsandbytes' own linears, on the path that all devices share, which multiplies in the compute type. --fast leaves its
kernel for CPUs with AVX512-BF16 on, which rounds inputs, largest magnitudes and results to bf16 whatever the compute type is.
int8: the loaded codes and scales with outliers decided by single inputs, as qsweep does; --columns takes bitsandbytes' own
linear instead, whose outliers are columns over the whole window.
"""
import argparse
import os
import sys

import numpy as np
import torch
import transformers

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import interop_common as common  # noqa: E402
import ppl_bnb  # noqa: E402


def rowwise(linear):
    """What a loaded Linear8bitLt holds, with its outliers decided row by row."""
    codes = linear.weight.CB if linear.weight.CB is not None else linear.weight.data
    scb = linear.weight.SCB if linear.weight.SCB is not None else linear.state.SCB
    return ppl_bnb.RowwiseInt8(codes, scb, linear.bias, linear.state.threshold)


def prepare(model, args):
    """Tables, norms and with them the stream in f32: a quantised checkpoint is loaded in its own f16 whatever is asked for."""
    for parameter in model.parameters():
        if parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()
    for block in model.model.layers:
        for part in (block.self_attn, block.mlp):
            for name, linear in list(part.named_children()):
                if type(linear).__name__ == "Linear4bit" and not args.fast:
                    linear.support_avx512bf16_for_cpu = False
                if type(linear).__name__ == "Linear8bitLt" and not args.columns:
                    setattr(part, name, rowwise(linear))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("eval")
    parser.add_argument("--windows", type=int, default=1 << 30)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--columns", action="store_true")
    args = parser.parse_args()
    tokens, nll, *_ = common.read_eval(args.eval)
    n = min(args.windows, len(tokens))
    model = transformers.AutoModelForCausalLM.from_pretrained(args.directory, dtype=torch.float32, device_map="cpu").eval()
    kinds = {type(m).__name__ for m in model.model.layers.modules() if "Linear" in type(m).__name__}
    print("linears of the blocks:", ", ".join(sorted(kinds)))
    prepare(model, args)
    theirs, _ = common.perplexity(common.torch_logits(model), tokens[:n], nll.shape[1])
    ours = float(np.exp(nll[:n].astype(np.float64).mean()))
    fine = common.compare(f"transformers, {'/'.join(sorted(kinds))}, {n} windows", ours, theirs, args.tolerance)
    sys.exit(0 if fine and kinds <= {"Linear4bit", "Linear8bitLt"} else 1)


main()
