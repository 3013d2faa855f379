"""A bitsandbytes directory of qsweep-export as transformers loads it on the CPU: matrices and perplexity.

usage: interop_bnb.py DIR EVAL.h5 [--windows N] [--tolerance X]    (needs torch, transformers, bitsandbytes, h5py, hdf5plugin)

DIR holds nf4, fp4 or int8, EVAL.h5 is the eval artifact of the point, with --dump tokens. Loading itself shows that keys,
shapes and the JSON beside each matrix are what bitsandbytes wants. Checked is the perplexity of the first N windows (default
all) through bitsandbytes' own linears, within TOLERANCE (default 0.001) of qsweep's. Exit status 1 when it is not.
"""
import argparse
import os
import sys

import numpy as np
import torch
import transformers

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import interop_common as common  # noqa: E402


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("eval")
    parser.add_argument("--windows", type=int, default=1 << 30)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    args = parser.parse_args()
    tokens, nll, *_ = common.read_eval(args.eval)
    n = min(args.windows, len(tokens))
    model = transformers.AutoModelForCausalLM.from_pretrained(args.directory, dtype=torch.float32, device_map="cpu").eval()
    kinds = {type(m).__name__ for m in model.model.layers.modules() if "Linear" in type(m).__name__}
    print("linears of the blocks:", ", ".join(sorted(kinds)))
    theirs, _ = common.perplexity(common.torch_logits(model), tokens[:n], nll.shape[1])
    ours = float(np.exp(nll[:n].astype(np.float64).mean()))
    fine = common.compare(f"transformers, {'/'.join(sorted(kinds))}, {n} windows", ours, theirs, args.tolerance)
    sys.exit(0 if fine and kinds <= {"Linear4bit", "Linear8bitLt"} else 1)


main()
