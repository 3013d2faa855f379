"""Time of one GPTQ point, calibration included: qsweep and GPTQModel in turns on the same tokens.

usage: bench_gptq.py BIN_DIR MODEL.gguf TEXT_DIR WORK_DIR [--rounds 3] [--samples 32] [--bits 4] [--group 64]
                     [--threads 2] [--compute bf16] [--dtypes bfloat16,float32]

qsweep: the wall time of both programs, qsweep-calibrate and qsweep-quantize, reading and writing included.
GPTQModel: the time inside quantize() alone, which is its own calibration and solving, for each dtype that the model is
loaded in; the best of them counts. Prints a line for each run, then medians, lowest and highest.
"""
import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

PEER = pathlib.Path(__file__).resolve().parent / "gptqmodel_run.py"


def timed(command):
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def ours(args, work):
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    calibrate = [args.bin / "qsweep-calibrate", "--quiet", "--model", args.model, "--text", args.text, "--samples",
                 str(args.samples), "--threads", str(args.threads), "--compute", args.compute, "--out", work / "calib.h5"]
    quantize = [args.bin / "qsweep-quantize", "--quiet", "--model", args.model, "--calib", work / "calib.h5", "--spec",
                f"gptq:bits={args.bits},group={args.group}", "--threads", str(args.threads), "--out", work]
    return timed(calibrate), timed(quantize)


def peer(args, work, dtype):
    tokens = args.work / "ours" / "calib.h5"
    command = [sys.executable, PEER, args.model, tokens, tokens, str(args.bits), work, "--group", str(args.group),
               "--damp", "0.05", "--dtype", dtype, "--quantize-only"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()
    return json.loads(lines[-1])["quantize_s"]


def spread(values):
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def main():
    parser = argparse.ArgumentParser()
    for name in ("bin", "model", "text", "work"):
        parser.add_argument(name, type=lambda path: pathlib.Path(path).resolve())
    for name, value in (("rounds", 3), ("samples", 32), ("bits", 4), ("group", 64), ("threads", 2)):
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--compute", default="bf16", help="of qsweep's forward pass: f32 or bf16")
    parser.add_argument("--dtypes", default="bfloat16,float32")
    args = parser.parse_args()
    found = {"calibrate": [], "quantize": [], "qsweep": []}
    for round_ in range(args.rounds):
        calibrate, quantize = ours(args, args.work / "ours")
        for name, value in (("calibrate", calibrate), ("quantize", quantize), ("qsweep", calibrate + quantize)):
            found[name].append(value)
        for dtype in args.dtypes.split(","):
            found.setdefault("GPTQModel " + dtype, []).append(peer(args, args.work / "peer", dtype))
        print(f"round {round_ + 1}: " + ", ".join(f"{name} {values[-1]:.2f} s" for name, values in found.items()), flush=True)
    for name, values in found.items():
        print(f"{name:20} {spread(values)} s")
    best = min((name for name in found if name.startswith("GPTQModel")), key=lambda name: statistics.median(found[name]))
    ratios = [theirs / mine for theirs, mine in zip(found[best], found["qsweep"])]
    print(f"{best} / qsweep {spread(ratios)}")


if __name__ == "__main__":
    main()
