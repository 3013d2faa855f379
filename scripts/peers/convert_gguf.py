"""Rewrites a GGUF file with its matrices in another type, metadata and vectors unchanged.

usage: convert_gguf.py IN.gguf OUT.gguf TYPE [EMBED_TYPE]        (needs gguf)

TYPE and EMBED_TYPE (of token_embd.weight and output.weight, default: TYPE) are names that gguf-py can quantise
to: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1.
"""
import sys

import gguf

FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "BF16": 32}


def copy_metadata(reader, writer, kind):
    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue
        if field.name == "general.file_type":
            writer.add_file_type(FILE_TYPES[kind])
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub_type)


def main():
    source, target, kind = sys.argv[1:4]
    embed_kind = sys.argv[4] if len(sys.argv) > 4 else kind
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    copy_metadata(reader, writer, kind)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        shape = tuple(int(n) for n in reversed(tensor.shape))
        values = values.reshape(shape)
        if len(shape) == 1:
            writer.add_tensor(tensor.name, values)
            continue
        name = embed_kind if tensor.name in ("token_embd.weight", "output.weight") else kind
        wanted = gguf.GGMLQuantizationType[name]
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
