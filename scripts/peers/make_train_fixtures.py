#!/usr/bin/env python3
"""Gradients by torch autograd for tests/test_train.c: a small Llama of transformers, a few examples with weights, the
weighted mean loss of all of them and its gradient. usage: make_train_fixtures.py tests/fixtures/train"""
import json
import os
import sys

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import LlamaConfig, LlamaForCausalLM

out = sys.argv[1]
os.makedirs(out, exist_ok=True)
torch.manual_seed(11)
config = dict(architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=48, hidden_size=16, intermediate_size=24,
              num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=256,
              rms_norm_eps=1e-5, rope_theta=500.0, tie_word_embeddings=True, hidden_act="silu", attention_bias=False)
model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in config.items() if k not in ("architectures", "model_type")},
                                     attn_implementation="eager")).double()
with torch.no_grad():
    for name, p in model.named_parameters():
        p.copy_((torch.randn_like(p) * 0.2 if p.dim() > 1 else 1 + 0.2 * torch.randn_like(p)).float())
lengths = [70, 37, 128, 2, 64]
tokens = [torch.randint(0, 48, (n,)) for n in lengths]
weights = [torch.where(torch.rand(n) < 0.3, 10.0, 1.0) for n in lengths]
weights[1][5:9] = 0
total, loss = sum(w[1:].sum() for w in weights), 0
for t, w in zip(tokens, weights):
    logits = model(t[None]).logits[0, :-1]
    loss = loss + (torch.nn.functional.cross_entropy(logits, t[1:], reduction="none") * w[1:]).sum() / total
loss.backward()
tensors = {"loss": np.array([loss.item()], np.float64), "lengths": np.array(lengths, np.int32),
           "tokens": torch.cat(tokens).numpy().astype(np.int32), "weights": torch.cat(weights).numpy().astype(np.float32)}
for name, p in model.named_parameters():
    tensors[name] = p.detach().float().numpy()
    tensors["grad:" + name] = p.grad.float().numpy()
save_file(tensors, os.path.join(out, "gradients.safetensors"))
with open(os.path.join(out, "config.json"), "w") as f:
    json.dump(config, f, indent=1)
print("loss", loss.item(), "torch", torch.__version__)
