"""EXL2 by its description alone (no code of a runtime or of qsweep): how tensors of a linear become its weights.

A linear P of K inputs and N outputs, N padded to a multiple of 32, in G groups of inputs:
  q_weight I32 [R, N], q_scale I32 [G, N / 8], q_scale_max F16 [G], q_groups I16 [2 G] of (bits, first row of q_weight),
  q_invperm I32 [K], the place of each input in the stored order.
Codes of a column are one stream of bits, least significant first. A scale is (c + 1)^2 times a 256th of the group's largest
scale, c its four bits, every product rounded to f16; a weight is f16((code - 2^(bits - 1)) * scale).
"""
import numpy as np


def decode(tensors, prefix):
    """W [K, N padded] as float16, rows in the order of the inputs."""
    words = tensors[prefix + ".q_weight"].view(np.uint32)
    scales, largest = tensors[prefix + ".q_scale"].view(np.uint32), tensors[prefix + ".q_scale_max"]
    groups, places = tensors[prefix + ".q_groups"].reshape(-1, 2).astype(int), tensors[prefix + ".q_invperm"]
    n_out, stored = words.shape[1], []
    ends = list(groups[1:, 1]) + [words.shape[0]]
    for g, (bits, first) in enumerate(groups):
        stream = words[first:ends[g]].T.copy().view(np.uint8)  # [N, bytes]
        flat = np.unpackbits(stream, axis=1, bitorder="little")
        codes = (flat.reshape(n_out, -1, bits).astype(np.int32) << np.arange(bits)).sum(axis=2)  # [N, rows]
        step = np.float16(largest[g] * np.float16(1 / 256))
        c = (scales[g][:, None] >> (4 * np.arange(8, dtype=np.uint32))) & 15  # [N / 8, 8]
        squares = ((c.reshape(-1).astype(np.int32) + 1) ** 2).astype(np.float16)
        scale = squares * step
        stored.append(((codes - (1 << (bits - 1))).astype(np.float16) * scale[:, None]).T)
    return np.concatenate(stored)[places]


def encode(codes, groups, scale_codes, largest, perm):
    """The reverse for codes [K, N] in stored order, groups [(bits, rows)], scale_codes [G, N], perm: stored -> input."""
    words, starts, row = [], [], 0
    for bits, rows in groups:
        block = codes[row:row + rows].T  # [N, rows]
        flat = (block[:, :, None] >> np.arange(bits)) & 1
        packed = np.packbits(flat.reshape(block.shape[0], -1).astype(np.uint8), axis=1, bitorder="little")
        starts += [bits, sum(w.shape[0] for w in words)]
        words.append(np.ascontiguousarray(packed).view(np.uint32).T)
        row += rows
    nibbles = scale_codes.reshape(len(groups), -1, 8).astype(np.uint32) << (4 * np.arange(8, dtype=np.uint32))
    places = np.empty(len(perm), "i4")
    places[perm] = np.arange(len(perm), dtype="i4")
    return {"q_weight": np.ascontiguousarray(np.concatenate(words)).view(np.int32),
            "q_scale": np.bitwise_or.reduce(nibbles, axis=2).astype(np.uint32).view(np.int32),
            "q_scale_max": np.asarray(largest, np.float16), "q_groups": np.asarray(starts, np.int16), "q_invperm": places}
