"""The weights of a model directory as a GGUF file in F32, for peers that quantise them themselves.

usage: exact_gguf.py MODEL_DIR LIKE.gguf OUT.gguf        (needs gguf, numpy)

LIKE.gguf is an export of any point of that model, whose metadata and vectors are taken over; the matrices are those of
MODEL_DIR/model.safetensors (F16 or F32) instead of the point's. Rows of Q and K change places where the architecture is
llama, as GGUF has them.
"""
import json
import os
import sys

import gguf
import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from convert_gguf import copy_metadata  # noqa: E402

NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj"}
OUTER = {"token_embd.weight": "model.embed_tokens.weight", "output.weight": "lm_head.weight"}
TYPES = {"F16": np.float16, "F32": np.float32}


def read_safetensors(path):
    with open(path, "rb") as file:
        data = file.read()
    length = int.from_bytes(data[:8], "little")
    return {name: np.frombuffer(data, TYPES[row["dtype"]], offset=8 + length + row["data_offsets"][0],
                                count=int(np.prod(row["shape"]))).reshape(row["shape"]).astype(np.float32)
            for name, row in json.loads(data[8:8 + length]).items() if name != "__metadata__"}


def name_of(name):
    if name in OUTER:
        return OUTER[name]
    _, layer, role, _ = name.split(".")
    return f"model.layers.{layer}.{NAMES[role]}.weight"


def main():
    source, like, target = sys.argv[1:4]
    weights, reader = read_safetensors(os.path.join(source, "model.safetensors")), gguf.GGUFReader(like)
    architecture = reader.fields["general.architecture"].contents()
    heads = {"attn_q": int(reader.fields[f"{architecture}.attention.head_count"].contents()),
             "attn_k": int(reader.fields[f"{architecture}.attention.head_count_kv"].contents())}
    writer = gguf.GGUFWriter(target, architecture)
    copy_metadata(reader, writer, "F32")
    for tensor in reader.tensors:
        if len(tensor.shape) == 1:
            writer.add_tensor(tensor.name, np.array(tensor.data))
            continue
        values, role = weights[name_of(tensor.name)], tensor.name.split(".")[-2]
        if architecture == "llama" and role in heads:  # [head, t, i, in] to row 2 i + t
            n_out, n_in = values.shape
            values = values.reshape(heads[role], 2, -1, n_in).transpose(0, 2, 1, 3).reshape(n_out, n_in)
        writer.add_tensor(tensor.name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main()
