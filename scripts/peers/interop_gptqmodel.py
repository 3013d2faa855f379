"""A GPTQ or AWQ directory as GPTQModel loads it on the CPU: its matrices against a quant artifact, and its perplexity.

usage: interop_gptqmodel.py DIR EVAL.h5 [--quant QUANT.h5] [--packed-windows N] [--tolerance X]
       (needs torch, transformers, gptqmodel, h5py, hdf5plugin)

DIR is what qsweep-export wrote (gptq, gptq_v2, awq) and QUANT.h5 the artifact it was made from; or, without --quant, a
directory of GPTQModel's own. EVAL.h5 is the eval artifact of that point or of that --checkpoint, with --dump tokens.
Checked is that GPTQModel's de-quantised matrices are the artifact's rounded to its f16, and that perplexities of the same
windows are within TOLERANCE (default 0.001) of qsweep's: GPTQModel's packed linears in f16 on the first N windows (default
1: they take minutes), and transformers in f32 with the de-quantised matrices on all. Exit status 1 when one fails.
"""
import argparse
import os
import sys

import gptqmodel_settings  # noqa: F401 (first)
import numpy as np
import torch
import transformers
from gptqmodel import BACKEND, GPTQModel

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import interop_common as common


def module_of(model, layer, role):
    return getattr(getattr(model.model.layers[layer], "self_attn" if role[0] in "qkvo" else "mlp"), role)


def matrix_of(module):
    """W[out, in]: what the linear does to the unit vectors, each of which has one term, so that nothing is rounded."""
    n_in = module.in_features
    with torch.no_grad():
        made = module(torch.eye(n_in, dtype=torch.float16)).float()
        if getattr(module, "bias", None) is not None:
            made -= module.bias.float()
    return made.T.contiguous()


def own_matrices(model):
    for layer in range(len(model.model.layers)):
        for role in common.ROLES:
            yield layer, role, None


def check_matrices(model, quant, dense):
    """GPTQModel's matrices against the artifact's, which go into the f32 model; without an artifact its own do."""
    worst, n = 0.0, 0
    for layer, role, wanted in common.artifact_matrices(quant) if quant else own_matrices(model):
        made = matrix_of(module_of(model, layer, role))
        if wanted is not None:
            worst = max(worst, float(np.abs(made.numpy() - wanted.astype(np.float16).astype(np.float32)).max()))
        module_of(dense, layer, role).weight.data = made if wanted is None else torch.from_numpy(wanted)
        n += 1
    if quant:
        print(f"{n} matrices, largest difference from the artifact rounded to f16: {worst:g}", "ok" if worst == 0 else "FAILED")
    return worst == 0.0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("eval")
    parser.add_argument("--quant")
    parser.add_argument("--packed-windows", type=int, default=1)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    args = parser.parse_args()
    tokens, nll, ours, _ = common.read_eval(args.eval)
    config = transformers.AutoConfig.from_pretrained(args.directory)
    method = config.quantization_config["quant_method"]
    backend = BACKEND.AWQ_TORCH if method == "awq" else BACKEND.GPTQ_TORCH
    model = GPTQModel.load(args.directory, backend=backend, device="cpu", dtype=torch.float16).model.eval()
    del config.quantization_config
    dense = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    dense.load_state_dict({k: v.float() for k, v in model.state_dict().items() if k in dense.state_dict()}, strict=False)
    fine = check_matrices(model, args.quant, dense)
    theirs, _ = common.perplexity(common.torch_logits(dense), tokens, nll.shape[1])
    fine = common.compare(f"transformers, de-quantised, f32, {len(tokens)} windows", ours, theirs, args.tolerance) and fine
    n = min(args.packed_windows, len(tokens))
    if n > 0:
        theirs, _ = common.perplexity(common.torch_logits(model), tokens[:n], nll.shape[1])
        ours = float(np.exp(nll[:n].astype(np.float64).mean()))
        fine = common.compare(f"GPTQModel, packed {method}, f16, {n} windows", ours, theirs, args.tolerance) and fine
    sys.exit(0 if fine else 1)


main()
