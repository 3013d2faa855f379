#!/usr/bin/env python3
"""Reads qsweep artifacts with h5py and hdf5plugin and recomputes every digest, sharing no code with qsweep.

    check_artifact.py FILE...      prints datasets and attributes; exit status 1 when a digest is wrong

Needs h5py, hdf5plugin, numpy, xxhash.
"""
import sys

import h5py
import hdf5plugin  # noqa: F401  (registers the filters)
import numpy as np
import xxhash

RUN_VARYING = ("/provenance/", "/timing/")
SEAL = {"kind", "schema_version", "digest", "complete"}
BESIDE_DATA = {"digest", "unit"}


def half_type(exponent_bits, mantissa_bits, bias):
    t = h5py.h5t.IEEE_F32LE.copy()
    t.set_fields(15, mantissa_bits, exponent_bits, 0, mantissa_bits)
    t.set_size(2)
    t.set_ebias(bias)
    return t


TYPES = {
    "f64": h5py.h5t.IEEE_F64LE, "f32": h5py.h5t.IEEE_F32LE,
    "f16": half_type(5, 10, 15), "bf16": half_type(8, 7, 127),
    "i64": h5py.h5t.STD_I64LE, "i32": h5py.h5t.STD_I32LE, "i16": h5py.h5t.STD_I16LE, "i8": h5py.h5t.STD_I8LE,
    "u64": h5py.h5t.STD_U64LE, "u32": h5py.h5t.STD_U32LE, "u16": h5py.h5t.STD_U16LE, "u8": h5py.h5t.STD_U8LE,
}


def type_name(dataset):
    stored = dataset.id.get_type()
    for name, t in TYPES.items():
        if stored.equal(t):
            return name
    raise SystemExit(f"{dataset.name}: an element type that no artifact has")


def raw_bytes(dataset):
    """The stored elements, not converted."""
    stored = dataset.id.get_type()
    raw = np.empty(dataset.shape, dtype=f"V{stored.get_size()}")
    if raw.size:
        dataset.id.read(h5py.h5s.ALL, h5py.h5s.ALL, raw, stored)
    return raw.tobytes()


def digest(data):
    return xxhash.xxh3_128_hexdigest(data)


def attribute_line(path, value):
    if isinstance(value, bytes):
        return f"{path} text [] {digest(value)}\n"
    value = np.asarray(value)
    kind = {"int64": "int", "float64": "real"}[str(value.dtype)]
    return f"{path} {kind} [] {digest(value.tobytes())}\n"


def read(file):
    """Manifest lines, printable lines, datasets whose own digest is wrong."""
    lines, shown, wrong = [], [], []

    def attributes(path, obj, skip):
        for name in obj.attrs:
            where = f"{path.rstrip('/')}/@{name}"
            value = obj.attrs[name]
            value = bytes(value) if isinstance(value, (bytes, np.bytes_)) else value
            shown.append(f"{where} = {value.decode() if isinstance(value, bytes) else value}")
            if name not in skip:
                lines.append(attribute_line(where, value))

    def visit(name, obj):
        path = "/" + name
        if isinstance(obj, h5py.Dataset):
            data = raw_bytes(obj)
            found, dims = digest(data), ",".join(map(str, obj.shape))
            shown.append(f"{path} {type_name(obj)} [{dims}] {found} first bytes {data[:8].hex()}")
            if found != obj.attrs["digest"].decode():
                wrong.append(path)
            lines.append(f"{path} {type_name(obj)} [{dims}] {found}\n")
            attributes(path, obj, BESIDE_DATA)
        else:
            attributes(path, obj, set())

    attributes("/", file, SEAL)
    file.visititems(visit)
    return [line for line in lines if not line.startswith(RUN_VARYING)], shown, wrong


def content_digest(file, lines):
    head = f"qsweep {file.attrs['kind'].decode()} schema {file.attrs['schema_version']}\n"
    return digest("".join([head] + sorted(lines)).encode())


def check(path):
    with h5py.File(path, "r") as file:
        lines, shown, wrong = read(file)
        found, stored = content_digest(file, lines), file.attrs["digest"].decode()
    print("\n".join(sorted(shown)))
    for dataset in wrong:
        print(f"WRONG {path}: {dataset}: the data do not have the stored digest")
    if found != stored:
        print(f"WRONG {path}: content digest {found}, stored {stored}")
    good = not wrong and found == stored
    print(f"{path}: {len(lines)} lines in the manifest, {'all digests agree' if good else 'DIGESTS DIFFER'}")
    return good


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    results = [check(path) for path in sys.argv[1:]]
    sys.exit(0 if all(results) else 1)
