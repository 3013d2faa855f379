#!/usr/bin/env python3
"""Makes tests/fixtures/artifact with h5py: one artifact with every element type, and broken ones.

usage: make_artifact_fixtures.py OUT_DIR        (needs h5py, hdf5plugin, numpy, xxhash)

all_types.quant.h5    /layers/TYPE/rankN, N = 1..4; byte j of a dataset of type number t is (167 j + 31 t + 5) % 256,
                      types in the order of check_artifact.TYPES; contiguous, shuffled or zstd
*.bad.h5              one fault each; tests/test_artifact_faults.c says how each must be refused
"""
import pathlib
import sys

import h5py
import hdf5plugin
import numpy as np

from check_artifact import TYPES, content_digest, digest, read

SHAPES = [(9,), (3, 5), (2, 3, 4), (2, 1, 3, 2)]


def put_raw(file, path, type_name, shape, data, dcpl=None, type_id=None):
    t = type_id if type_id is not None else TYPES[type_name]
    group = file.require_group(path.rsplit("/", 1)[0])
    space = h5py.h5s.create_simple(shape)
    dataset = h5py.Dataset(h5py.h5d.create(group.id, path.rsplit("/", 1)[1].encode(), t, space, dcpl=dcpl))
    if data:
        dataset.id.write(h5py.h5s.ALL, h5py.h5s.ALL, np.frombuffer(data, dtype=f"V{t.get_size()}").reshape(shape), t)
    dataset.attrs["digest"] = np.bytes_(digest(data).encode())
    return dataset


def chunked(chunk, *filters):
    dcpl = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    dcpl.set_chunk(chunk)
    for f in filters:
        if f == "shuffle":
            dcpl.set_shuffle()
        elif f == "fletcher32":
            dcpl.set_fletcher32()
        elif f == "gzip":
            dcpl.set_deflate(1)
        else:
            dcpl.set_filter(f[0], h5py.h5z.FLAG_MANDATORY, f[1])
    return dcpl


def pattern(type_number, n_bytes):
    return bytes((167 * j + 31 * type_number + 5) % 256 for j in range(n_bytes))


def seal(file, kind="quant"):
    file.attrs["kind"] = np.bytes_(kind.encode())
    file.attrs["schema_version"] = np.int64(1)
    file.attrs["digest"] = np.bytes_(content_digest(file, read(file)[0]).encode())
    file.attrs["complete"] = np.int64(1)


def all_types(file):
    for number, (name, t) in enumerate(TYPES.items()):
        for shape in SHAPES:
            n_bytes = int(np.prod(shape)) * t.get_size()
            dcpl = None
            if len(shape) == 2 and number % 3 == 0:
                dcpl = chunked((2, 5), "shuffle", (32015, (3, 10 * t.get_size())), "fletcher32")
            if len(shape) == 3 and number % 3 == 1:
                dcpl = chunked((1, 3, 4), "shuffle", "fletcher32")
            put_raw(file, f"/layers/{name}/rank{len(shape)}", name, shape, pattern(number, n_bytes), dcpl)
    put_raw(file, "/layers/u8/empty", "u8", (0, 4), b"")
    file["/layers"].attrs["loss"] = np.float64(-0.5)
    file["/layers/u8"].attrs["bits"] = np.int64(-(2**62))
    seal(file)


CODES = bytes(range(64)) * 64  # 4 KiB
ZSTD = (32015, (1, 4096))


def base(file, filters=(ZSTD, "fletcher32")):
    put_raw(file, "/layers/0/q/codes", "u8", (4, 1024), CODES, chunked((4, 1024), *filters))
    file.require_group("/spec").attrs["bits"] = np.int64(4)
    seal(file)


def frame(n_bytes):
    """A zstd frame of raw blocks that states its size: RFC 8878, with no entropy coding."""
    body = (CODES * 2)[:n_bytes]
    header = bytes.fromhex("28b52ffd") + b"\xa0" + n_bytes.to_bytes(4, "little")
    return header + ((n_bytes << 3) | 1).to_bytes(3, "little") + body


def direct_chunk(cd_values, n_bytes):
    def make(file):
        dcpl = chunked((4, 1024), (32015, cd_values))
        dataset = put_raw(file, "/layers/0/q/codes", "u8", (4, 1024), CODES, dcpl)
        seal(file)
        dataset.id.write_direct_chunk((0, 0), frame(n_bytes))
    return make


def after(change):
    def make(file):
        base(file)
        change(file)
    return make


def set_attr(name, value, group="/"):
    return after(lambda file: file[group].attrs.__setitem__(name, value))


def change_data(update_own_digest):
    def change(file):
        dataset = file["/layers/0/q/codes"]
        dataset[2, 7] ^= 1
        if update_own_digest:
            dataset.attrs["digest"] = np.bytes_(digest(dataset[...].tobytes()).encode())
    return after(change)


def replace_codes(make_dataset):
    def make(file):
        make_dataset(file)
        file["/layers/0/q/codes"].attrs["digest"] = np.bytes_(digest(CODES).encode())
        file.attrs["kind"] = np.bytes_(b"quant")
        file.attrs["schema_version"] = np.int64(1)
        file.attrs["digest"] = np.bytes_(b"0" * 32)
        file.attrs["complete"] = np.int64(1)
    return make


def second_name(file):
    file["/layers/0/k"] = file["/layers/0/q"]


def soft_link(file):
    file.move("/layers/0/q/codes", "/layers/0/q/moved")
    file["/layers/0/q/codes"] = h5py.SoftLink("/layers/0/q/moved")


def external_link(file):
    del file["/layers/0/q/codes"]
    file["/layers/0/q/codes"] = h5py.ExternalLink("all_types.quant.h5", "/layers/u8/rank1")


def external_data(file):
    """The bytes lie in another file, which is there and is right, seen from the directory that tests run in."""
    dcpl = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    dcpl.set_external(b"tests/fixtures/artifact/codes.bin", 0, len(CODES))
    space = h5py.h5s.create_simple((4, 1024))
    h5py.h5d.create(file.require_group("/layers/0/q").id, b"codes", h5py.h5t.STD_U8LE, space, dcpl=dcpl)


def virtual_data(file):
    layout = h5py.VirtualLayout((4, 1024), "u1")
    layout[0, :9] = h5py.VirtualSource("tests/fixtures/artifact/all_types.quant.h5", "/layers/u8/rank1", (9,))
    file.create_virtual_dataset("/layers/0/q/codes", layout)


BAD = {
    "plain": lambda file: file.require_group("/layers"),
    "unsealed": after(lambda file: file.attrs.__delitem__("complete")),
    "incomplete": set_attr("complete", np.int64(0)),
    "newer": set_attr("schema_version", np.int64(2)),
    "older": set_attr("schema_version", np.int64(0)),
    "strange_kind": set_attr("kind", np.bytes_(b"train")),
    "kind_number": set_attr("kind", np.int64(1)),
    "kind_variable": set_attr("kind", "quant"),
    "kind_array": set_attr("kind", np.array([b"quant", b"eval"])),
    "no_digest": after(lambda file: file.attrs.__delitem__("digest")),
    "digest_not_hex": set_attr("digest", np.bytes_(b"x" * 32)),
    "digest_long": set_attr("digest", np.bytes_(b"0" * 33)),
    "missing_filter": lambda file: base(file, ((32000, (4, 0, 4096)),)),
    "changed_data": change_data(False),
    "changed_data_and_digest": change_data(True),
    "changed_attribute": set_attr("bits", np.int64(3), "/spec"),
    "real_for_int": set_attr("bits", np.float64(4), "/spec"),
    "extra_attribute": set_attr("group_size", np.int64(4), "/spec"),
    "extra_root_attribute": set_attr("more", np.int64(4)),
    "extra_dataset": after(lambda file: put_raw(file, "/layers/0/k/codes", "u8", (1, 1), b"a")),
    "lost_dataset": after(lambda file: file.__delitem__("/layers/0/q/codes")),
    "lost_data_digest": after(lambda file: file["/layers/0/q/codes"].attrs.__delitem__("digest")),
    "second_name": after(second_name),
    "soft_link": after(soft_link),
    "external_link": after(external_link),
    "external_data": replace_codes(external_data),
    "virtual_data": replace_codes(virtual_data),
    "named_type": after(lambda file: file.__setitem__("/layers/t", np.dtype("f8"))),
    "big_endian": replace_codes(lambda file: file.create_dataset("/layers/0/q/codes", data=np.zeros((4, 4), ">i4"))),
    "compound": replace_codes(lambda file: file.create_dataset("/layers/0/q/codes", (2, 2), "i4,f4")),
    "rank0": replace_codes(lambda file: file.create_dataset("/layers/0/q/codes", data=np.uint8(1))),
    "rank5": replace_codes(lambda file: file.create_dataset("/layers/0/q/codes", data=np.zeros((1, 1, 1, 1, 2), "u1"))),
    "empty_space": replace_codes(lambda file: file.create_dataset("/layers/0/q/codes", data=h5py.Empty("u1"))),
    "huge": replace_codes(lambda file: file.create_dataset("/layers/0/q/codes", (2**60, 4), "u1", chunks=(64, 4))),
    "hole": replace_codes(lambda file: file.create_dataset("/layers/0/q/codes", (8, 512), "u1", chunks=(4, 512))
                          .__setitem__(0, 1)),
    "wrong_chunk_size": lambda file: base(file, ((32015, (1, 4095)),)),
    "unstated_chunk_size": lambda file: base(file, ((32015, (1,)),)),
    "gzip": lambda file: base(file, ("gzip",)),
    "wrong_filter_order": lambda file: base(file, ("fletcher32", ZSTD)),
    "short_frame": direct_chunk((1, 4096), 64),
    "long_frame": direct_chunk((1, 4096), 8192),
}


def main(out_dir):
    out = pathlib.Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    made = {"all_types.quant.h5": all_types, **{f"{name}.bad.h5": make for name, make in BAD.items()}}
    for name, make in made.items():
        with h5py.File(out / name, "w", libver=("v110", "v110")) as file:
            make(file)
    (out / "codes.bin").write_bytes(CODES)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
