"""What the scripts that compare with peers share: matrices of a quant artifact, tokens and scores of an eval artifact,
perplexity by a peer's logits."""
import h5py
import hdf5plugin  # noqa: F401 (registers the filter)
import numpy as np

ROLES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def dequantise(group):
    """w[o][perm[j]] = scale[o][j / group] (code[o][j] - zero[o][j / group]), row bit streams, lowest bit first."""
    n_out, n_in = int(group.attrs["n_out"]), int(group.attrs["n_in"])
    codes, scales = group["codes"][:], group["scales"][:].astype(np.float32)
    own, spec = group.attrs, group.file["spec"].attrs  # of its own where bits were shared out
    bits = int(own["bits"] if "bits" in own else spec["bits"])
    stream = np.unpackbits(codes, axis=1, bitorder="little")[:, :n_in * bits].reshape(n_out, n_in, bits)
    values = (stream * (1 << np.arange(bits))).sum(axis=2).astype(np.float32)
    size = int(own["group_size"] if "group_size" in own else spec["group_size"])
    index = np.arange(n_in) // (n_in if size < 0 else size)
    zeros = group["zeros"][:].astype(np.float32)[:, index] if "zeros" in group else float(1 << (bits - 1))
    stored = scales[:, index] * (values - zeros)
    if "perm" not in group:
        return stored
    weights = np.empty_like(stored)
    weights[:, group["perm"][:]] = stored
    return weights


def artifact_matrices(path):
    """Yields (layer, role, W[out, in] float32) of a quant artifact."""
    with h5py.File(path) as f:
        for layer in range(len(f["layers"])):
            for role in ROLES:
                yield layer, role, dequantise(f[f"layers/{layer}/{role}"])


def read_eval(path):
    """tokens [n_windows, n_ctx] (evaluate --dump tokens), scored NLL [n_windows, n_scored], PPL, protocol."""
    with h5py.File(path) as f:
        return f["dump/tokens"][:], f["tokens/nll"][:], float(f["metrics/ppl"].attrs["value"]), \
            f["protocol"].attrs["name"].decode()


def torch_logits(model):
    """logits_of(window) of a transformers model."""
    import torch

    def logits_of(window):
        with torch.no_grad():
            return model(torch.from_numpy(window.astype(np.int64))[None], use_cache=False).logits[0].float().numpy()
    return logits_of


def perplexity(logits_of, tokens, n_scored):
    """NLL of the last n_scored positions but one of each window; logits_of(window) gives [n_ctx, n_vocab]."""
    first, nll = tokens.shape[1] - 1 - n_scored, []
    for window in tokens:
        x = logits_of(window)[first:first + n_scored].astype(np.float64)
        x -= x.max(axis=-1, keepdims=True)
        log_p = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
        nll.append(-log_p[np.arange(n_scored), window[first + 1:first + 1 + n_scored]])
    return float(np.exp(np.mean(nll))), np.stack(nll)


def compare_windows(peer, logits_of, eval_path, tolerance):
    """Prints how a peer's perplexity of an eval artifact's tokens differs from the artifact's own; whether it is near."""
    tokens, ours_nll, ours, protocol = read_eval(eval_path)
    theirs, nll = perplexity(logits_of, tokens, ours_nll.shape[1])
    difference = ours / theirs - 1.0
    print(f"protocol {protocol}, {len(nll)} windows of {tokens.shape[1]}, {nll.size} positions")
    print(f"ppl qsweep {ours:.6f}  {peer} {theirs:.6f}  relative {difference:+.2e} (limit {tolerance:g})")
    print(f"largest difference of a position {np.abs(nll - ours_nll).max():.2e} nats")
    return abs(difference) <= tolerance


def compare(label, ours, theirs, tolerance):
    difference = ours / theirs - 1.0
    verdict = "ok" if abs(difference) <= tolerance else "FAILED"
    print(f"{label}: ppl qsweep {ours:.5f}  peer {theirs:.5f}  relative {difference:+.2e} (limit {tolerance:g}) {verdict}")
    return verdict == "ok"
