"""Makes tests/fixtures/models: tiny models with random weights, their golden logits, and GGUF twins.

usage: make_model_fixtures.py OUT_DIR        (needs torch, transformers, safetensors, gguf, xxhash)

OUT_DIR/<name>/config.json, model.safetensors    a Hugging Face directory ("llama3" is sharded, with an index)
OUT_DIR/<name>/tokens.i32    int32 LE [32], the input: one sequence, positions 0..31
OUT_DIR/<name>/hidden.f32    float32 LE [32, d_model], after the final norm
OUT_DIR/<name>/logits.f32    float32 LE [32, n_vocab], computed by transformers in fp32, eager attention
OUT_DIR/<name>/inv_freq.f32  float32 LE [head_dim / 2], the rotary frequencies in force
OUT_DIR/gguf/<name>-<type>.gguf                  twins, without a tokenizer
OUT_DIR/gguf/q8_0.csv        model,tensor (Hugging Face name),xxh3_128 of the float32 LE values of the Q8_0 twin
                             in Hugging Face row order, dequantised by gguf-py

Every weight is exactly a bfloat16 and a float16 number, so that the F32, F16 and BF16 twins are equal.
"""
import json
import pathlib
import sys

import gguf
import numpy as np
import safetensors.torch
import torch
import transformers
import xxhash

N_TOKENS = 32

BASE = dict(vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=256, rms_norm_eps=1e-5, tie_word_embeddings=False,
            bos_token_id=1, eos_token_id=2, hidden_act="silu")
LLAMA, MISTRAL = transformers.LlamaConfig, transformers.MistralConfig
QWEN2, QWEN3 = transformers.Qwen2Config, transformers.Qwen3Config


def rope(theta, **scaling):
    return {"rope_type": "default", **scaling, "rope_theta": theta}


# name: config class, changes against BASE, stored dtype, config.json in the style of transformers 4
MODELS = {
    "llama2": (LLAMA, dict(num_key_value_heads=4, rope_parameters=rope(1e4)), "float16", True),
    "llama3": (LLAMA, dict(rope_parameters=rope(5e5, rope_type="llama3", factor=8.0, low_freq_factor=1.0,
                                                high_freq_factor=4.0, original_max_position_embeddings=64)),
               "bfloat16", True),
    "linear": (LLAMA, dict(hidden_size=32, intermediate_size=64, num_attention_heads=2, num_key_value_heads=1,
                           rope_parameters=rope(1e4, rope_type="linear", factor=4.0)), "float32", False),
    "mistral": (MISTRAL, dict(head_dim=24, sliding_window=12, rope_parameters=rope(1e6)), "bfloat16", False),
    # 48 columns: like SmolLM2's 576, no multiple of 32 * 2^k that a quantiser may expect.
    "smollm2": (LLAMA, dict(hidden_size=48, num_attention_heads=3, num_key_value_heads=1, rope_parameters=rope(1e5),
                            tie_word_embeddings=True), "bfloat16", False),
    "qwen2": (QWEN2, dict(rms_norm_eps=1e-6, tie_word_embeddings=True, rope_parameters=rope(1e6),
                          use_sliding_window=False, sliding_window=16), "bfloat16", True),
    "qwen3": (QWEN3, dict(rms_norm_eps=1e-6, head_dim=24, rope_parameters=rope(1e6), tie_word_embeddings=True),
              "bfloat16", False),
}
TWINS = {"llama2": ("F32", "F16", "BF16", "Q8_0"), "qwen2": ("F32", "F16", "BF16", "Q8_0"), "llama3": ("F16",)}


def representable(values):
    """bfloat16 keeps 8 bits and float16 is exact for those down to 2^-17: drop what is smaller."""
    values = values.to(torch.bfloat16).float()
    values[values.abs() < 2.0 ** -16] = 0
    assert torch.equal(values, values.to(torch.float16).float())
    return values


def randomise(model, seed):
    rng = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=rng)
        if name.endswith("norm.weight"):
            values = 1 + 0.2 * noise
        elif name.endswith("bias"):
            values = 0.3 * noise
        elif "embed" in name or "lm_head" in name:
            values = 0.4 * noise
        else:
            values = noise * 1.3 / parameter.shape[1] ** 0.5
        parameter.data.copy_(representable(values))


def old_style(config):
    """rope_parameters as transformers 4 spelt them."""
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    config["rope_scaling"] = None if parameters["rope_type"] == "default" else parameters
    config["torch_dtype"] = config.pop("dtype")


def write_weights(folder, tensors, sharded):
    if not sharded:
        safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    parts = [names[0::3], names[1::3], names[2::3]]
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": {}}
    for i, part in enumerate(parts):
        file = f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors"
        safetensors.torch.save_file({n: tensors[n] for n in part}, folder / file, metadata={"format": "pt"})
        index["weight_map"].update({n: file for n in part})
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


def make_model(name, folder, seed):
    config_class, changes, dtype, old = MODELS[name]
    config = config_class(**{**BASE, **changes})
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    randomise(model, seed)
    folder.mkdir(parents=True, exist_ok=True)

    written = config.to_dict()
    written["architectures"] = [type(model).__name__]
    written["dtype"] = dtype
    written.pop("_attn_implementation", None)
    if old:
        old_style(written)
    (folder / "config.json").write_text(json.dumps(written, indent=1, sort_keys=True) + "\n")

    state = {n: t.detach().clone() for n, t in model.state_dict().items()}
    if config.tie_word_embeddings:
        state.pop("lm_head.weight")
    write_weights(folder, {n: t.to(getattr(torch, dtype)).contiguous() for n, t in state.items()}, name == "llama3")

    tokens = torch.randint(3, config.vocab_size, (1, N_TOKENS), generator=torch.Generator().manual_seed(seed + 1000))
    with torch.no_grad():
        out = model(tokens, output_hidden_states=True, use_cache=False)
    tokens.to(torch.int32).numpy().tofile(folder / "tokens.i32")
    out.hidden_states[-1][0].numpy().tofile(folder / "hidden.f32")
    out.logits[0].numpy().tofile(folder / "logits.f32")
    model.model.rotary_emb.inv_freq.float().numpy().tofile(folder / "inv_freq.f32")
    print(f"{name}: logits std {out.logits.std():.2f}, probability of the first choice"
          f" {out.logits.softmax(-1).max(-1).values.mean():.2f}")
    return config, {n: t.numpy() for n, t in state.items()}


LEAVES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
          "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
          "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
WHOLE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
         "lm_head.weight": "output.weight"}


def gguf_name(name):
    if name in WHOLE:
        return WHOLE[name]
    _, _, layer, leaf = name.split(".", 3)
    leaf, kind = leaf.rsplit(".", 1)
    return f"blk.{layer}.{LEAVES[leaf]}.{kind}"


def permute(values, n_heads):
    """Rotated halves to rotated pairs, as llama.cpp's converter does."""
    return values.reshape(n_heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def unpermute(values, n_heads):
    return values.reshape(n_heads, -1, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def heads_of(name, config):
    """The number of heads whose rows are permuted, 0 for tensors that stay as they are."""
    if config.model_type != "llama":
        return 0
    if ".q_proj." in name:
        return config.num_attention_heads
    return config.num_key_value_heads if ".k_proj." in name else 0


def divisors(config):
    """rope_freqs.weight of a llama3 scaling."""
    r = config.rope_parameters
    head_dim = config.hidden_size // config.num_attention_heads
    inverse = 1.0 / r["rope_theta"] ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    wave = 2 * np.pi / inverse
    smooth = (r["original_max_position_embeddings"] / wave - r["low_freq_factor"]) / (
        r["high_freq_factor"] - r["low_freq_factor"])
    smooth = np.clip(smooth, 0, 1)
    return (1 / ((1 - smooth) / r["factor"] + smooth)).astype(np.float32)


def write_twin(path, config, state, kind, rows):
    arch = {"llama": "llama", "qwen2": "qwen2"}[config.model_type]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(path.stem)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", divisors(config))
    kind_id = gguf.GGMLQuantizationType[kind]
    for name, values in sorted(state.items()):
        heads = heads_of(name, config)
        stored = permute(values, heads) if heads else values
        if stored.ndim == 1:
            writer.add_tensor(gguf_name(name), stored)
            continue
        data = gguf.quants.quantize(stored, kind_id)
        writer.add_tensor(gguf_name(name), data, raw_dtype=kind_id)
        if kind == "Q8_0":
            back = gguf.quants.dequantize(data, kind_id).reshape(stored.shape).astype("<f4")
            back = unpermute(back, heads) if heads else back
            rows.append((path.stem, name, xxhash.xxh3_128_hexdigest(np.ascontiguousarray(back).tobytes())))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    out = pathlib.Path(sys.argv[1])
    (out / "gguf").mkdir(parents=True, exist_ok=True)
    rows = []
    for seed, name in enumerate(MODELS):
        config, state = make_model(name, out / name, seed + 1)
        for kind in TWINS.get(name, ()):
            write_twin(out / "gguf" / f"{name}-{kind.lower()}.gguf", config, state, kind, rows)
    with open(out / "gguf" / "q8_0.csv", "w") as stream:
        print("model,tensor,xxh3_128", file=stream)
        for row in rows:
            print(*row, sep=",", file=stream)


main()
