"""A GPTQ directory as GPTQModel and transformers load it: its matrices against the quant artifact, and its perplexity.

usage: interop_gptq.py DIR QUANT.h5 EVAL.h5 [TOLERANCE]     (needs torch, transformers, gptqmodel, h5py, hdf5plugin)

DIR is what qsweep-export wrote (gptq, gptq_v2), QUANT.h5 the artifact it was made from, EVAL.h5 the point's eval artifact,
written with --dump tokens. Checks that GPTQModel's own de-quantisation gives every matrix of the artifact (rounded to its
f16), that the tokenizer gives the same tokens of a text as the directory's tokenizer.json by `tokenizers`, and that the
perplexity of the same windows is within TOLERANCE (default 0.001) of qsweep's: once with GPTQModel's packed linears in f16,
and once in f32 with its de-quantised matrices in place of them. Exit status 1 when one of them fails.
"""
import os
import sys

SETTINGS = {"GPTQMODEL_CPU_WORKERS": str(os.cpu_count()), "TORCHDYNAMO_DISABLE": "1", "BUILD_CUDA_EXT": "0"}
if any(os.environ.get(name) is None for name in SETTINGS):
    os.environ.update({name: os.environ.get(name, value) for name, value in SETTINGS.items()})
    os.execv(sys.executable, [sys.executable] + sys.argv)

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from gptqmodel import BACKEND, GPTQModel  # noqa: E402

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import interop_common as common  # noqa: E402

PREFIXES = {role: ("self_attn" if role[0] in "qkvo" else "mlp") for role in common.ROLES}


def module_of(model, layer, role):
    return getattr(getattr(model.model.layers[layer], PREFIXES[role]), role)


def logits_of(model):
    def run(window):
        with torch.no_grad():
            return model(torch.from_numpy(window.astype(np.int64))[None], use_cache=False).logits[0].float().numpy()
    return run


def check_matrices(model, quant, dense):
    """GPTQModel's de-quantised matrices against the artifact's; puts them into the f32 model."""
    worst, n = 0.0, 0
    for layer, role, wanted in common.artifact_matrices(quant):
        with torch.no_grad():
            made = module_of(model, layer, role).dequantize_weight().T.float().numpy()
        worst = max(worst, float(np.abs(made - wanted.astype(np.float16).astype(np.float32)).max()))
        module_of(dense, layer, role).weight.data = torch.from_numpy(wanted)
        n += 1
    print(f"{n} matrices, largest difference from the artifact rounded to f16: {worst:g}", "ok" if worst == 0 else "FAILED")
    return worst == 0.0


def main():
    directory, quant, evaluated = sys.argv[1:4]
    tolerance = float(sys.argv[4]) if len(sys.argv) > 4 else 1e-3
    tokens, nll, ours = common.read_eval(evaluated)
    model = GPTQModel.load(directory, backend=BACKEND.GPTQ_TORCH, device="cpu", dtype=torch.float16).model.eval()
    config = transformers.AutoConfig.from_pretrained(directory)
    del config.quantization_config
    dense = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    state = {k: v.float() for k, v in model.state_dict().items() if k in dense.state_dict()}
    dense.load_state_dict(state, strict=False)
    fine = check_matrices(model, quant, dense)
    for label, subject in (("GPTQModel, packed, f16", model), ("transformers, de-quantised, f32", dense)):
        theirs, _ = common.perplexity(logits_of(subject), tokens, nll.shape[1])
        fine = common.compare(label, ours, theirs, tolerance) and fine
    sys.exit(0 if fine else 1)


main()
