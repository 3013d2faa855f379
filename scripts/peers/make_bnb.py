"""A checkpoint of bitsandbytes' own, saved by transformers on the CPU, for evaluate --checkpoint (docs/interop.md).

usage: make_bnb.py MODEL_DIR OUT_DIR nf4|fp4|int8 [--dq] [--compute float32] [--dtype float32]
       (needs torch, transformers, bitsandbytes)

MODEL_DIR is a Hugging Face directory, loaded in DTYPE, which each matrix's quant_state then names. The tokenizer of OUT_DIR
is the model's own files, since transformers rewrites it.
"""
import argparse
import pathlib
import shutil

import torch
import transformers


def main():
    parser = argparse.ArgumentParser()
    for name in ("model", "out"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("type", choices=["nf4", "fp4", "int8"])
    parser.add_argument("--dq", action="store_true")
    for name in ("--compute", "--dtype"):
        parser.add_argument(name, default="float32")
    args = parser.parse_args()
    if args.type == "int8":
        config = transformers.BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=args.type,
                                                 bnb_4bit_use_double_quant=args.dq,
                                                 bnb_4bit_compute_dtype=getattr(torch, args.compute))
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype),
                                                              quantization_config=config, device_map="cpu")
    model.save_pretrained(args.out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (args.model / name).exists():
            shutil.copy(args.model / name, args.out / name)


main()
