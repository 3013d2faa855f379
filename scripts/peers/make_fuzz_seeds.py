"""Makes the seed corpora tests/fuzz/corpus/{safetensors,gguf,config_json,checkpoint}.

usage: make_fuzz_seeds.py CORPUS_DIR MODELS_DIR        (needs gguf, safetensors, numpy)

MODELS_DIR is tests/fixtures/models, whose config.json files are seeds, too.
"""
import json
import pathlib
import sys

import gguf
import numpy as np
import safetensors.numpy

import exl2_format

BLOCK_TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
               "IQ4_NL", "IQ4_XS")


def seed_safetensors(out):
    rng = np.random.default_rng(1)
    safetensors.numpy.save_file({"w": rng.standard_normal((2, 3)).astype("f2"), "b": np.arange(3, dtype="i4"),
                                 "scalar": np.array(1, "f4"), "empty": np.zeros((0, 4), "f4")},
                                out / "small.safetensors", metadata={"format": "pt"})
    safetensors.numpy.save_file({"w": np.zeros(1, "f4")}, out / "one.safetensors")


def seed_gguf(out):
    rng = np.random.default_rng(2)
    writer = gguf.GGUFWriter(out / "types.gguf", "llama")
    for name in BLOCK_TYPES:
        kind = gguf.GGMLQuantizationType[name]
        elems, size = gguf.GGML_QUANT_SIZES[kind]
        data = rng.integers(0, 256, (1, size * (256 // elems) // (1 if elems > 1 else 64)), dtype=np.uint8)
        if name in ("F32", "F16"):
            data = data.view({"F32": "<f4", "F16": "<f2"}[name])
        writer.add_tensor(name.lower(), data, raw_dtype=kind)
    finish(writer)

    writer = gguf.GGUFWriter(out / "model.gguf", "llama")
    writer.add_block_count(1)
    writer.add_context_length(32)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(8)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(4)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(3)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "ab"])
    writer.add_token_types([1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_bool("tokenizer.ggml.add_bos_token", False)
    writer.add_tensor("token_embd.weight", np.zeros((3, 8), "f4"))
    writer.add_tensor("rope_freqs.weight", np.ones(2, "f4"))
    writer.add_tensor("output_norm.weight", np.ones(8, "f4"))
    finish(writer)


def seed_checkpoint(out):
    """A line with the value of quantization_config, then model.safetensors (tests/fuzz/fuzz_checkpoint.c)."""
    roles = ["self_attn." + r for r in ("q_proj", "k_proj", "v_proj", "o_proj")]
    roles += ["mlp." + r for r in ("gate_proj", "up_proj", "down_proj")]
    for method in ("gptq", "awq"):
        rng = np.random.default_rng(3)
        tensors = {"model.embed_tokens.weight": np.zeros((4, 32), "f2"), "model.norm.weight": np.ones(32, "f2"),
                   "model.layers.0.input_layernorm.weight": np.ones(32, "f2"),
                   "model.layers.0.post_attention_layernorm.weight": np.ones(32, "f2")}
        for role in roles:
            shape = (4, 32) if method == "gptq" else (32, 4)
            parts = {"qweight": rng.integers(-2**31, 2**31, shape, dtype="i4"),
                     "qzeros": rng.integers(-2**31, 2**31, (1, 4), dtype="i4"), "scales": np.ones((1, 32), "f2")}
            if method == "gptq":
                parts["g_idx"] = np.zeros(32, "i4")
            tensors.update({f"model.layers.0.{role}.{leaf}": value for leaf, value in parts.items()})
        config = f'{{"quant_method": "{method}", "bits": 4, "group_size": 32, "sym": false}}\n'
        (out / f"{method}.bin").write_bytes(config.encode() + safetensors.numpy.save(tensors))
        if method == "gptq":  # with rules of single matrices' own
            rules = {"-:lm_head": {}, r"+:^model\.layers\.0\.mlp\.(up|gate)_proj$": {"bits": 4, "group_size": 32, "sym": False}}
            config = json.dumps(json.loads(config) | {"dynamic": rules}) + "\n"
            (out / "gptq_dynamic.bin").write_bytes(config.encode() + safetensors.numpy.save(tensors))
    tensors = {name: value for name, value in tensors.items() if "_proj." not in name}
    for role in roles:
        groups = [(4, 32)] if "mlp" in role else [(5, 32)]
        parts = exl2_format.encode(rng.integers(0, 16, (32, 32)), groups, rng.integers(0, 16, (1, 32)), [0.01],
                                   rng.permutation(32))
        tensors.update({f"model.layers.0.{role}.{leaf}": value for leaf, value in parts.items()})
    (out / "exl2.bin").write_bytes(b'{"quant_method": "exl2", "bits": 4.5}\n' + safetensors.numpy.save(tensors))
    # a head of four outputs, padded to 32, and no configuration: its tensors say what it is
    parts = exl2_format.encode(rng.integers(0, 64, (32, 32)), [(6, 32)], rng.integers(0, 16, (1, 32)), [0.01], rng.permutation(32))
    tensors.update({f"lm_head.{leaf}": value for leaf, value in parts.items()})
    (out / "exl2_head.bin").write_bytes(b"0\n" + safetensors.numpy.save(tensors))


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    corpus, models = map(pathlib.Path, sys.argv[1:3])
    for name in ("safetensors", "gguf", "config_json", "checkpoint"):
        (corpus / name).mkdir(parents=True, exist_ok=True)
    seed_safetensors(corpus / "safetensors")
    seed_gguf(corpus / "gguf")
    seed_checkpoint(corpus / "checkpoint")
    for config in sorted(models.glob("*/config.json")):
        (corpus / "config_json" / f"{config.parent.name}.json").write_bytes(config.read_bytes())


main()
