#!/usr/bin/env python3
"""Steps of bitsandbytes' AdamW8bit on the CPU for tests/test_adam.c, and its two dynamic maps. After each step its state
is stored: codes and the largest magnitudes of blocks. usage: make_adam_fixtures.py tests/fixtures/train   (needs torch, bitsandbytes)"""
import sys

import bitsandbytes as bnb
import bitsandbytes.functional as F
import numpy as np
import torch
from safetensors.numpy import save_file

N, STEPS, BLOCK = 16 * 256 + 5, 3, 256
torch.manual_seed(7)
p = torch.nn.Parameter(torch.randn(N) * 0.1)
tensors = {"signed_map": F.create_dynamic_map(True).numpy(), "unsigned_map": F.create_dynamic_map(False).numpy(),
           "p0": p.detach().numpy().copy()}
optimizer = bnb.optim.AdamW8bit([p], lr=1e-3, betas=(0.9, 0.995), eps=1e-8, weight_decay=0.01)
for step in range(1, STEPS + 1):
    g = torch.randn(N) * 0.01
    g[256:512] = 0                     # a block without a gradient
    g[600:700] *= 1e-3                 # small beside the rest of its block
    p.grad = g.clone()
    optimizer.step()
    state = optimizer.state[p]
    m = F.dequantize_blockwise(state["state1"], absmax=state["absmax1"], code=state["qmap1"], blocksize=BLOCK)
    scale = state["absmax1"].repeat_interleave(BLOCK)[:N]
    assert torch.equal(m, state["qmap1"][state["state1"].long()] * scale)  # what the test computes from the codes
    tensors[f"g{step}"], tensors[f"p{step}"] = g.numpy().copy(), p.detach().numpy().copy()
    for name, key in (("m_codes", "state1"), ("v_codes", "state2"), ("m_scales", "absmax1"), ("v_scales", "absmax2")):
        tensors[f"{name}{step}"] = state[key].numpy().copy()
save_file(tensors, sys.argv[1] + "/adam8.safetensors")
print("bitsandbytes", bnb.__version__, {k: v.shape for k, v in tensors.items()})
