#!/usr/bin/env python3
"""Training speed of qsweep-train and of the same model in PyTorch on the CPU, in turns on the same machine.

    python scripts/peers/bench_train.py build/bin/qsweep-train tests/fixtures/train/bench datasets/handbook/calibration

The directory holds config.json and tokenizer.json. Needs: torch, transformers. Prints tokens/s of every round, their
medians, and tokens per second of CPU time, which other programs on the machine disturb less. Both train rows of --seqlen
tokens of plain text with AdamW, gradient clipping and the same batch. qsweep's CPU time includes starting the program.
"""
import argparse
import json
import os
import resource
import statistics
import subprocess
import tempfile
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

parser = argparse.ArgumentParser()
parser.add_argument("program")
parser.add_argument("model")
parser.add_argument("text")
parser.add_argument("--seqlen", type=int, default=512)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--steps", type=int, default=6)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()
torch.set_num_threads(args.threads)


def children_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def qsweep(compute):
    before = children_seconds()
    with tempfile.TemporaryDirectory() as out:
        done = subprocess.run(
            [args.program, "--config", args.model + "/config.json", "--tokenizer", args.model + "/tokenizer.json", "--data",
             args.text, "--out", out + "/m", "--steps", str(args.steps), "--batch", str(args.batch), "--seqlen",
             str(args.seqlen), "--compute", compute, "--threads", str(args.threads), "--stop-after", str(args.steps - 1),
             "--warmup", "0", "--json", "--quiet"], check=True, capture_output=True, text=True)
        result = json.loads(done.stdout)
        return result["tokens"] / result["seconds"], result["tokens"] / (children_seconds() - before)


class Torch:
    def __init__(self, attention):
        config = LlamaConfig.from_json_file(args.model + "/config.json")
        torch.manual_seed(0)
        self.model = LlamaForCausalLM._from_config(config, attn_implementation=attention)
        self.model.float().train()  # whatever type config.json names
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=args.model + "/tokenizer.json")
        paths = [args.text] if os.path.isfile(args.text) else [os.path.join(args.text, n) for n in sorted(os.listdir(args.text))]
        ids = tokenizer("".join(open(p).read() for p in paths), verbose=False)["input_ids"]
        n = args.batch * args.seqlen
        self.rows = torch.tensor(ids[:n]).repeat(n // len(ids[:n]) + 1)[:n].view(args.batch, args.seqlen)

    def step(self):
        loss = self.model(input_ids=self.rows, labels=self.rows, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def rate(self):
        self.step()
        started, cpu = time.perf_counter(), time.process_time()
        for _ in range(args.steps - 1):
            self.step()
        n = (args.steps - 1) * self.rows.numel()
        return n / (time.perf_counter() - started), n / (time.process_time() - cpu)


def torch_bf16(peer):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return peer.rate()


peer = Torch("sdpa")
kinds = {"qsweep f32": lambda: qsweep("f32"), "torch f32": peer.rate, "qsweep bf16": lambda: qsweep("bf16"),
         "torch bf16 autocast": lambda: torch_bf16(peer)}
rates = {name: [] for name in kinds}
print(f"{sum(p.numel() for p in peer.model.parameters())} parameters, {args.batch} rows of {args.seqlen} tokens, "
      f"{args.threads} threads, torch {torch.__version__}, load {os.getloadavg()[0]:.2f}")
for _ in range(args.rounds):
    for name, run in kinds.items():
        rates[name].append(run())
medians = {name: [statistics.median(v[i] for v in values) for i in range(2)] for name, values in rates.items()}
for name, values in rates.items():
    print(f"{name:22s} median {medians[name][0]:8.0f} tokens/s, {medians[name][1]:8.0f} per CPU second   "
          + " ".join(f"{v[0]:.0f}/{v[1]:.0f}" for v in values))
for ours, theirs in (("qsweep f32", "torch f32"), ("qsweep bf16", "torch bf16 autocast")):
    wall, cpu = (medians[ours][i] / medians[theirs][i] for i in range(2))
    print(f"{ours}: {wall:.2f} x torch, {cpu:.2f} x per CPU second")
print(f"load {os.getloadavg()[0]:.2f}")
