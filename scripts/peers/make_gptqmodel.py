"""A checkpoint of GPTQModel's own on the CPU, for evaluate --checkpoint (docs/interop.md).

usage: make_gptqmodel.py MODEL_DIR CALIB.h5 OUT_DIR [--bits 4] [--group 64] [--desc-act] [--asym] [--v2] [--samples N]
       (needs torch, transformers, gptqmodel, h5py, hdf5plugin)

MODEL_DIR is a Hugging Face directory; the calibration tokens are those of qsweep-calibrate's artifact (the first N windows).
The tokenizer of OUT_DIR is the model's own files, since transformers rewrites it.
"""
import argparse
import os
import pathlib
import shutil

import gptqmodel_run as run  # sets what must be set before torch is there
import numpy as np
import torch


def main():
    parser = argparse.ArgumentParser()
    for name in ("model", "calib", "out"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--samples", type=int, default=16)
    for name in ("--desc-act", "--asym", "--v2"):
        parser.add_argument(name, action="store_true")
    args = parser.parse_args()
    from gptqmodel import BACKEND, GPTQModel, QuantizeConfig
    model_dir, calib, out = args.model.absolute(), args.calib.absolute(), args.out.absolute()
    out.mkdir(parents=True)
    os.chdir(out.parent)  # GPTQModel leaves its log in the current directory
    config = QuantizeConfig(bits=args.bits, group_size=args.group, sym=not args.asym, desc_act=args.desc_act,
                            act_group_aware=not args.desc_act, format="gptq_v2" if args.v2 else "gptq")
    model = GPTQModel.load(str(model_dir), config, backend=BACKEND.GPTQ_TORCH)
    samples = [{"input_ids": torch.from_numpy(row.astype(np.int64))[None],
                "attention_mask": torch.ones((1, len(row)), dtype=torch.int64)}
               for row in run.read_tokens(str(calib))[:args.samples]]
    model.quantize(samples, batch_size=1, backend=BACKEND.GPTQ_TORCH)
    model.save(str(out))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (model_dir / name).exists():
            shutil.copy(model_dir / name, out / name)


main()
