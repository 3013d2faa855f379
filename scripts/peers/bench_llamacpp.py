"""Prefill and decode speed side by side with llama.cpp, runs interleaved, medians.

usage: bench_llamacpp.py BENCH MODEL.gguf [--pair FORM=PEER.gguf]... [options]      (needs llama-cpp-python)

BENCH is build/tests/bench_decode; MODEL.gguf is what it reads (weights rounded to 4 bits by itself for "int4").
Each pair names one of its forms and the GGUF file that llama.cpp runs against it (see convert_gguf.py). In every
round each side takes one sample, in an order that alternates; both have the same number of threads. A round in
which other processes took more than --disturbed of the machine is taken again, so that the figures are those of
the two programs and not of their neighbours; the waiting sides' threads sleep. LD_PRELOAD reaches llama.cpp alone
(see no_amx.c: its AMX kernels for Q4_0 end with an illegal instruction on some machines).
"""
import argparse
import ctypes
import os
import statistics
import subprocess
import time

import llama_cpp


TICK = os.sysconf("SC_CLK_TCK")


def machine_seconds():
    """CPU seconds that all processes took since boot."""
    with open("/proc/stat") as stream:
        fields = [int(x) for x in stream.readline().split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICK


def process_seconds(pid):
    with open(f"/proc/{pid}/stat") as stream:
        fields = stream.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


class Ours:
    def __init__(self, args, form):
        environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
        environment.pop("LD_PRELOAD", None)
        command = [args.bench, args.model, str(args.prompt), str(args.decode), "serve", form]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=environment)
        assert self.process.stdout.readline().strip() == "ready"

    def sample(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return tuple(float(x) for x in self.process.stdout.readline().split())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Peer:
    def __init__(self, args, path):
        self.n_prompt, self.n_decode = args.prompt, args.decode
        n_ctx = args.prompt + args.decode
        self.llama = llama_cpp.Llama(model_path=path, n_ctx=n_ctx, n_batch=args.prompt, n_ubatch=min(args.prompt, 512),
                                     n_threads=args.threads, n_threads_batch=args.threads, verbose=False)
        n_vocab = self.llama.n_vocab()
        self.tokens = [(i * 7919 + 13) % n_vocab for i in range(n_ctx)]
        for _ in range(3):
            self.sample()

    def decode(self, tokens):
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        batch = llama_cpp.llama_batch_get_one(array, len(tokens))
        if llama_cpp.llama_decode(self.llama.ctx, batch) != 0:
            raise RuntimeError("llama_decode failed")
        logits = llama_cpp.llama_get_logits_ith(self.llama.ctx, -1)
        return ctypes.cast(logits, ctypes.POINTER(ctypes.c_float))[0]

    def sample(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.llama.ctx), True)
        start = time.perf_counter()
        self.decode(self.tokens[:self.n_prompt])
        prefill = time.perf_counter() - start
        start = time.perf_counter()
        for token in self.tokens[self.n_prompt:]:
            self.decode([token])
        return prefill, time.perf_counter() - start

    def close(self):
        self.llama.close()


def speeds(args, samples):
    prefill = [args.prompt / s[0] for s in samples]
    decode = [args.decode / s[1] if s[1] > 1e-4 else float("nan") for s in samples]
    return prefill, decode


def spread(values):
    return f"{statistics.median(values):7.1f} [{min(values):.0f}-{max(values):.0f}]"


def timed(side, pids):
    """A sample, and the share of the machine that other processes took meanwhile."""
    time.sleep(0.05)  # the other side's threads stop spinning
    machine, own, start = machine_seconds(), sum(map(process_seconds, pids)), time.perf_counter()
    sample = side.sample()
    wall = time.perf_counter() - start
    others = machine_seconds() - machine - (sum(map(process_seconds, pids)) - own)
    return sample, max(0.0, others) / (wall * os.cpu_count())


def run_pair(args, form, path):
    ours, peer = Ours(args, form), Peer(args, path)
    pids = (ours.process.pid, os.getpid())
    samples, dropped = ([], []), 0
    while len(samples[0]) < args.rounds and dropped <= args.patience:
        flip = (len(samples[0]) + dropped) % 2
        sides = (ours, peer)
        taken = {i: timed(sides[i], pids) for i in ((0, 1) if flip == 0 else (1, 0))}
        if max(others for _, others in taken.values()) > args.disturbed:
            dropped += 1
            time.sleep(1.0)
            continue
        for i in (0, 1):
            samples[i].append(taken[i][0])
    ours.close()
    peer.close()
    if not samples[0]:
        print(f"{form:12} skip: no round of {dropped} was undisturbed", flush=True)
        return
    a, b = speeds(args, samples[0]), speeds(args, samples[1])
    for k, what in enumerate(("prefill", "decode")):
        if a[k][0] == a[k][0]:
            ratio = statistics.median(x / y for x, y in zip(a[k], b[k]))
            print(f"{form:12} {what:7} tok/s {spread(a[k]):24} {os.path.basename(path):28} {spread(b[k]):24}"
                  f" ratio {ratio:.2f}  n={len(samples[0])} ({dropped} disturbed)", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bench")
    parser.add_argument("model")
    parser.add_argument("--pair", action="append", default=[])
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--disturbed", type=float, default=0.05)
    parser.add_argument("--patience", type=int, default=100, help="disturbed rounds before giving up")
    args = parser.parse_args()
    print(f"{args.threads} threads, prompt {args.prompt}, decode {args.decode}, llama-cpp-python"
          f" {llama_cpp.__version__}; medians [min-max] in tok/s, ratio = median of the rounds' ratios")
    for pair in args.pair:
        run_pair(args, *pair.split("=", 1))


main()
