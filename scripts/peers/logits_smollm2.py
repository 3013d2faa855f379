"""Logits of transformers (fp32, eager attention) for a Llama-type GGUF model, to hold ours against.

usage: logits_smollm2.py MODEL.gguf TEXT OUT_DIR [N_WINDOWS [N_CTX]]    (needs torch, transformers, gguf)

The weights are de-quantised by gguf-py and loaded into a clean LlamaForCausalLM. Writes
OUT_DIR/tokens.i32   int32 LE [n_windows, n_ctx], windows spread over the text, positions restart in each
OUT_DIR/logits.f32   float32 LE [n_windows, n_ctx, n_vocab]
Then: build/tests/tool_logits MODEL.gguf OUT_DIR N_CTX
"""
import pathlib
import sys

import gguf
import numpy as np
import torch
import transformers

LEAVES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
          "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
          "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
WHOLE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
         "output.weight": "lm_head.weight"}


def read_config(reader):
    def get(key):
        return reader.fields["llama." + key].contents()

    shapes = {t.name: [int(n) for n in reversed(t.shape)] for t in reader.tensors}
    return transformers.LlamaConfig(
        vocab_size=shapes["token_embd.weight"][0], hidden_size=get("embedding_length"),
        intermediate_size=get("feed_forward_length"), num_hidden_layers=get("block_count"),
        num_attention_heads=get("attention.head_count"), num_key_value_heads=get("attention.head_count_kv"),
        max_position_embeddings=get("context_length"), rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": get("rope.freq_base")},
        tie_word_embeddings="output.weight" not in shapes)


def unpermute(values, n_heads):
    """llama.cpp rotates neighbouring pairs, Hugging Face halves: give back the order of rows."""
    return values.reshape(n_heads, -1, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)


def read_state(reader, config):
    state = {}
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(shape)
        if tensor.name in WHOLE:
            name = WHOLE[tensor.name]
        else:
            _, layer, leaf, kind = tensor.name.split(".")
            name = f"model.layers.{layer}.{LEAVES[leaf]}.{kind}"
            heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(leaf)
            values = unpermute(values, heads) if heads else values
        state[name] = torch.from_numpy(np.array(values, dtype=np.float32))
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    return state


def read_model(path):
    reader = gguf.GGUFReader(path)
    config = read_config(reader)
    config._attn_implementation = "eager"
    model = transformers.LlamaForCausalLM(config).eval()
    model.load_state_dict(read_state(reader, config))
    return model


def read_tokens(path, text, n_windows, n_ctx):
    # Any tokens serve as long as both sides get the same: transformers' reading of a GGUF tokenizer will do.
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
    if len(ids) < n_windows * n_ctx:
        sys.exit(f"the text has {len(ids)} tokens, and {n_windows} windows of {n_ctx} were asked for")
    starts = np.linspace(0, len(ids) - n_ctx, n_windows).astype(int)
    return np.stack([ids[s:s + n_ctx] for s in starts])


def main():
    path, text, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).read_text(), pathlib.Path(sys.argv[3])
    n_windows = int(sys.argv[4]) if len(sys.argv) > 4 else 3
    n_ctx = int(sys.argv[5]) if len(sys.argv) > 5 else 256
    tokens = read_tokens(path, text, n_windows, n_ctx)
    model = read_model(path)
    out.mkdir(parents=True, exist_ok=True)
    tokens.tofile(out / "tokens.i32")
    with torch.no_grad(), open(out / "logits.f32", "wb") as stream:
        for window in tokens:
            logits = model(torch.from_numpy(window.astype(np.int64))[None], use_cache=False).logits[0]
            logits.numpy().astype("<f4").tofile(stream)
    print(f"{n_windows} windows of {n_ctx} tokens, {model.config.vocab_size} logits each")


main()
