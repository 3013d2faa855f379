"""Model directories of seeded random weights whose shapes try every rule of the mixtures of GGUF types.

usage: make_mixture_models.py OUT_DIR        (needs numpy)

Prints the directories. Rows of 64 weights keep models of many layers small: there the type says all the same which it
stands in for, but for Q2_K and Q3_K, which rows of 256 tell apart.
"""
import json
import os
import sys

import numpy as np

ARCHITECTURES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
                 "qwen3": "Qwen3ForCausalLM"}
# architecture, layers, heads, of k and v, d_model, d_ff, tied head
MODELS = [("llama", 1, 4, 2, 256, 512, True), ("llama", 3, 8, 2, 256, 512, False), ("llama", 17, 4, 2, 256, 256, True),
          ("llama", 6, 8, 1, 256, 288, True), ("qwen3", 5, 6, 2, 256, 256, False), ("mistral", 32, 4, 4, 64, 96, False),
          ("qwen2", 24, 8, 1, 64, 128, True), ("qwen3", 28, 4, 2, 64, 96, False), ("llama", 80, 8, 1, 64, 96, False),
          ("llama", 80, 4, 4, 64, 96, True), ("qwen2", 80, 4, 4, 64, 96, False), ("qwen3", 80, 8, 1, 64, 96, False)]
N_VOCAB, HEAD_DIM = 96, 16


def write_safetensors(path, tensors):
    head, at = {}, 0
    for name, values in tensors.items():
        head[name] = {"dtype": "F16", "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(head).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + b"".join(values.tobytes() for values in tensors.values()))


def make(path, row):
    architecture, n_layers, n_heads, n_kv_heads, d_model, d_ff, tied = row
    rng, tensors, q, kv = np.random.default_rng(5), {}, n_heads * HEAD_DIM, n_kv_heads * HEAD_DIM

    def add(name, *shape):
        tensors[name] = (rng.standard_normal(shape) * 0.05 + (len(shape) == 1)).astype(np.float16)

    add("model.embed_tokens.weight", N_VOCAB, d_model)
    for layer in range(n_layers):
        at = f"model.layers.{layer}."
        shapes = {"self_attn.q_proj": (q, d_model), "self_attn.k_proj": (kv, d_model), "self_attn.v_proj": (kv, d_model),
                  "self_attn.o_proj": (d_model, q), "mlp.gate_proj": (d_ff, d_model), "mlp.up_proj": (d_ff, d_model),
                  "mlp.down_proj": (d_model, d_ff), "input_layernorm": (d_model,), "post_attention_layernorm": (d_model,)}
        if architecture == "qwen3":
            shapes |= {"self_attn.q_norm": (HEAD_DIM,), "self_attn.k_norm": (HEAD_DIM,)}
        for name, shape in shapes.items():
            add(f"{at}{name}.weight", *shape)
        if architecture == "qwen2":
            for name, n in (("q", q), ("k", kv), ("v", kv)):
                add(f"{at}self_attn.{name}_proj.bias", n)
    add("model.norm.weight", d_model)
    if not tied:
        add("lm_head.weight", N_VOCAB, d_model)
    os.makedirs(path, exist_ok=True)
    write_safetensors(os.path.join(path, "model.safetensors"), tensors)
    with open(os.path.join(path, "config.json"), "w") as file:
        json.dump({"architectures": [ARCHITECTURES[architecture]], "model_type": architecture, "hidden_act": "silu",
                   "hidden_size": d_model, "intermediate_size": d_ff, "num_hidden_layers": n_layers, "rms_norm_eps": 1e-5,
                   "num_attention_heads": n_heads, "num_key_value_heads": n_kv_heads, "head_dim": HEAD_DIM,
                   "max_position_embeddings": 512, "rope_theta": 10000.0, "tie_word_embeddings": tied,
                   "vocab_size": N_VOCAB, "torch_dtype": "float16"}, file, indent=1)


for entry in MODELS:
    directory = os.path.join(sys.argv[1], "-".join(str(part) for part in entry[:-1]) + ("-tied" if entry[-1] else ""))
    make(directory, entry)
    print(directory)
