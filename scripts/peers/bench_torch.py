"""What torch (cuBLAS) reaches on the shapes of bench_cuda, on the same device: the peer of its rows.

usage: bench_torch.py [--tiny] [--device cuda] [--only linear,prefill,gram]     CSV on stdout   (needs torch)

The columns are those of bench_cuda. linear: the seven linears of a Llama-3-8B layer in f16, rotating over layers that
are together many times larger than the caches, played from a CUDA graph. prefill: the same in f16 and bf16 for many
rows. gram: X^T X in f32 and bf16, with its error against f64. A time is the median of samples of at least 20 ms each.
"""
import argparse
import statistics
import sys
import time

import torch

COLUMNS = ("tool,part,name,format,rows,us,us_min,us_max,n,bytes,flops,gb_s,tflop_s,read_share,bf16_share,tokens_s,"
           "speedup_f16,error")
LARGE = {"d_model": 4096, "d_ff": 14336, "heads": 4096, "kv": 1024, "n_layers": 32, "batches": (1, 4, 8, 16, 32),
         "prompts": (2048, 512), "gram_rows": 8192, "gemm": 8192, "buffer": 4 << 30, "in_memory": 3}
TINY = {"d_model": 128, "d_ff": 256, "heads": 128, "kv": 64, "n_layers": 2, "batches": (1, 4), "prompts": (48, 40),
        "gram_rows": 64, "gemm": 128, "buffer": 1 << 20, "in_memory": 2}
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class Bench:
    def __init__(self, args):
        self.device = torch.device(args.device)
        self.shape = TINY if args.tiny else LARGE
        self.sample_ms = 1.0 if args.tiny else args.sample_ms
        self.n_samples = args.samples
        self.read_bytes = self.bf16_flops = None

    def sample(self, play, n):
        """Milliseconds of n plays."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            for _ in range(n):
                play()
            return (time.perf_counter() - start) * 1e3
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        first.record()
        for _ in range(n):
            play()
        last.record()
        last.synchronize()
        return first.elapsed_time(last)

    def graph(self, work):
        """`work` as a CUDA graph; it runs on a side stream first, as capture demands."""
        if self.device.type != "cuda":
            return work
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return graph.replay

    def measure(self, work, units=1, graph=False):
        """(median, smallest, largest) seconds of a unit."""
        work()
        play = self.graph(work) if graph else work
        n, spent = 1, self.sample(play, 1)
        while spent < self.sample_ms / 2 and n < 1 << 20:
            n *= 2
            spent = self.sample(play, n)
        n = max(1, int(n * self.sample_ms / max(spent, 1e-6) + 0.999))
        samples = [self.sample(play, n) * 1e-3 / (n * units) for _ in range(self.n_samples)]
        return statistics.median(samples), min(samples), max(samples)

    def row(self, part, name, fmt, rows, seconds, size=None, flops=None, tokens=None, error=None):
        median, least, most = seconds
        fields = ["torch", part, name, fmt, str(rows), f"{median * 1e6:.6g}", f"{least * 1e6:.6g}",
                  f"{most * 1e6:.6g}", str(self.n_samples)]
        values = [size, flops, size and size / median * 1e-9, flops and flops / median * 1e-12,
                  size and self.read_bytes and size / median / self.read_bytes,
                  flops and self.bf16_flops and flops / median / self.bf16_flops, tokens and tokens / median, None,
                  error]
        print(",".join(fields + ["" if v is None else f"{v:.6g}" for v in values]), flush=True)


def peaks(b):
    buffer = torch.empty(b.shape["buffer"] // 4, dtype=torch.float32, device=b.device).normal_()
    n_bytes = buffer.numel() * 4
    # The fastest of two reductions: torch has no plain read.
    read = min((b.measure(lambda f=f: f(buffer)) for f in (torch.sum, torch.amax)), key=lambda s: s[0])
    b.read_bytes = n_bytes / read[0]
    b.row("peaks", "read", "f32", 1, read, size=n_bytes)
    half = buffer.numel() // 2
    source, target = buffer[:half], buffer[half:2 * half]
    b.row("peaks", "copy", "f32", 1, b.measure(lambda: target.copy_(source)), size=2 * 4 * half)
    del buffer, source, target
    side = b.shape["gemm"]
    for fmt in ("bf16", "f16", "f32"):
        x, y = (torch.randn(side, side, device=b.device).to(DTYPES[fmt]) for _ in range(2))
        seconds = b.measure(lambda: x @ y)
        if fmt == "bf16":
            b.bf16_flops = 2 * side**3 / seconds[0]
        b.row("peaks", f"gemm_{fmt}", fmt, side, seconds, flops=2 * side**3)


def shapes(s):
    """[n_out, n_in] of the seven linears."""
    return {"q": (s["heads"], s["d_model"]), "k": (s["kv"], s["d_model"]), "v": (s["kv"], s["d_model"]),
            "o": (s["d_model"], s["heads"]), "gate": (s["d_ff"], s["d_model"]), "up": (s["d_ff"], s["d_model"]),
            "down": (s["d_model"], s["d_ff"])}


def make_layers(b, fmt):
    def draw(shape):
        return (torch.randn(*shape, device=b.device) * 0.02).to(DTYPES[fmt])
    return [{name: draw(shape) for name, shape in shapes(b.shape).items()} for _ in range(b.shape["in_memory"])]


def run_layers(layers, inputs):
    for layer in layers:
        for name, weight in layer.items():
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)


def measure_layers(b, part, fmt, layers, rows, graph):
    inputs = {n_in: torch.randn(rows, n_in, device=b.device).to(DTYPES[fmt]) for _, n_in in shapes(b.shape).values()}
    seconds = b.measure(lambda: run_layers(layers, inputs), units=len(layers), graph=graph)
    n = sum(n_out * n_in for n_out, n_in in shapes(b.shape).values())
    few = part == "linear"
    b.row(part, "layer" if few else "linears", fmt, rows, seconds,
          size=n * layers[0]["q"].element_size() if few else None, flops=2 * n * rows,
          tokens=None if few else rows / b.shape["n_layers"])


def linear(b):
    layers = make_layers(b, "f16")
    for rows in b.shape["batches"]:
        measure_layers(b, "linear", "f16", layers, rows, True)


def prefill(b):
    for fmt in ("f16", "bf16"):
        layers = make_layers(b, fmt)
        for rows in b.shape["prompts"]:
            measure_layers(b, "prefill", fmt, layers, rows, False)


def gram_error(x, gram):
    """Largest difference from f64 on a sample of columns, relative to the root of the diagonal elements' product."""
    columns = torch.randperm(x.shape[1], device=x.device)[:64]
    exact = x[:, columns].double()
    exact = exact.T @ exact
    scale = exact.diagonal().sqrt()
    return ((gram[columns][:, columns].double() - exact).abs() / (scale[:, None] * scale[None, :])).max().item()


def gram(b):
    n = b.shape["gram_rows"]
    for name in ("d_model", "d_ff"):
        d = b.shape[name]
        x = torch.randn(n, d, device=b.device)
        for fmt in ("f32", "bf16"):
            y = x.to(DTYPES[fmt])
            error = gram_error(x, y.T @ y)
            b.row("gram", name, fmt, n, b.measure(lambda: y.T @ y), flops=2 * n * d * d, error=error)


PARTS = {"linear": linear, "prefill": prefill, "gram": gram}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--samples", type=int, default=7)
    parser.add_argument("--sample-ms", type=float, default=20.0)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to test the script itself")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("bench_torch: this torch sees no GPU; --device cpu --tiny tests the script")
    names = args.only.split(",")
    for name in names:
        if name not in PARTS:
            parser.error(f"--only: \"{name}\" is not one of {', '.join(PARTS)}")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest")
    device = torch.cuda.get_device_name(0) if args.device.startswith("cuda") else "cpu"
    print(f"bench_torch: torch {torch.__version__}, {device}", file=sys.stderr)
    print(COLUMNS)
    b = Bench(args)
    with torch.inference_mode():
        peaks(b)
        for name in names:
            start = time.perf_counter()
            PARTS[name](b)
            if b.device.type == "cuda":
                torch.cuda.empty_cache()
            print(f"bench_torch: {name} took {time.perf_counter() - start:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
