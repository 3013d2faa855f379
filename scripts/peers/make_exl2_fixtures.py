"""Makes tests/fixtures/exl2: an EXL2 directory of random codes for tests/fixtures/tiny, and what it decodes to.

usage: make_exl2_fixtures.py tests/fixtures/tiny tests/fixtures/exl2                     (needs safetensors, numpy)

The output head is in 6 bits, beside a configuration that still ties it to the embedding, as ExLlamaV2 leaves it. Tensors
are written and decoded by exl2_format.py. weights.sha256 has, for each linear, the SHA-256 of its weights [out, in]
as little-endian float32.
"""
import hashlib
import json
import os
import pathlib
import sys

import numpy as np
import safetensors.numpy

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import exl2_format  # noqa: E402

HEAD = [(8, 32), (6, 32)]
MIXES = {64: [[(8, 32), (2, 32)], [(6, 32), (5, 32)], [(4, 64)]], 160: [[(6, 32), (4, 32), (3, 96)], [(5, 64), (2, 96)]]}


def main():
    parent, out = map(pathlib.Path, sys.argv[1:3])
    rng, lines, tensors = np.random.default_rng(11), [], {}

    def add(prefix, n_out, groups):
        codes = np.concatenate([rng.integers(0, 1 << bits, (rows, n_out)) for bits, rows in groups])
        parts = exl2_format.encode(codes, groups, rng.integers(0, 16, (len(groups), n_out)),
                                   rng.uniform(1e-4, 0.02, len(groups)), rng.permutation(len(codes)))
        tensors.update({f"{prefix}.{leaf}": part for leaf, part in parts.items()})
        weights = exl2_format.decode(tensors, prefix).T.astype("<f4")
        lines.append(f"{hashlib.sha256(np.ascontiguousarray(weights).tobytes()).hexdigest()}  {prefix}\n")

    for path in sorted(parent.glob("*.safetensors")):
        for name, value in safetensors.numpy.load_file(path).items():
            if "_proj." not in name:
                tensors[name] = value.astype(np.float16)
                continue
            n_out, n_in = value.shape
            add(name[:-len(".weight")], n_out, MIXES[n_in][len(lines) % len(MIXES[n_in])])
    add("lm_head", *tensors["model.embed_tokens.weight"].shape[:1], HEAD)
    out.mkdir(parents=True, exist_ok=True)
    config = json.loads((parent / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "exl2", "version": "0.3.2", "bits": 4.0, "head_bits": 6}
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    safetensors.numpy.save_file(tensors, out / "output.safetensors")
    (out / "weights.sha256").write_text("".join(sorted(lines, key=lambda line: line[66:])))


main()
