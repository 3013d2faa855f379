#!/usr/bin/env python3
"""Holds qsweep's tokenizer against the `tokenizers` library on large texts and random Unicode; prints one line
per tokenizer and text and exits 1 when any token differs.

    compare_tokenizer.py --library build/peers/libqstok.so [--build] [--text FILE...] [--gguf MODEL.gguf]
                         [--seed N] TOKENIZER.json...

--build compiles the library's sources into the shared object first (gcc, run in the root of the tree). Texts are
cut at 200 kB. Besides the given files: a mixed-script text, random Unicode, and the cases of the fixtures.
Variants of each tokenizer.json (prefix space, invert, other behaviours) are tried on the short texts.
"""
import argparse
import copy
import ctypes
import glob
import json
import pathlib
import random
import subprocess
import sys
import time
import unicodedata

from tokenizers import Tokenizer

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import make_tokenizer_fixtures as fixtures  # noqa: E402

TEXT_BYTES_MAX = 200_000


class TokenList(ctypes.Structure):
    _fields_ = [("n", ctypes.c_int64), ("capacity", ctypes.c_int64), ("ids", ctypes.POINTER(ctypes.c_int32))]


class GgufVocab(ctypes.Structure):
    _fields_ = [("model", ctypes.c_char_p), ("pre", ctypes.c_char_p), ("n_vocab", ctypes.c_int64),
                ("tokens", ctypes.POINTER(ctypes.c_char_p)), ("token_bytes", ctypes.POINTER(ctypes.c_int64)),
                ("types", ctypes.POINTER(ctypes.c_int32)), ("scores", ctypes.POINTER(ctypes.c_float)),
                ("n_merges", ctypes.c_int64), ("merges", ctypes.POINTER(ctypes.c_char_p)),
                ("merge_bytes", ctypes.POINTER(ctypes.c_int64)), ("bos_id", ctypes.c_int32), ("eos_id", ctypes.c_int32),
                ("unknown_id", ctypes.c_int32), ("add_bos", ctypes.c_int), ("add_space_prefix", ctypes.c_int)]


def build(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    names = "added bpe bpe_table detokenizer normalizer pattern pattern_translate pre_family pretokenizer textbuf " \
            "tokenizer tokenizer_gguf tokenizer_json tokenizer_steps unicode unicode_rows vocab"
    sources = ["pipeline/model/%s.c" % name for name in names.split()] + glob.glob("pipeline/base/*.c")
    subprocess.run(["gcc", "-std=c11", "-O2", "-g", "-fPIC", "-shared", "-fopenmp", "-D_GNU_SOURCE", "-Ipipeline", *sources,
                    "-o", str(path), "-ljansson", "-lpcre2-8", "-lutf8proc", "-lxxhash", "-lm"], check=True)


class Mine:
    """One tokenizer of the library under test."""

    def __init__(self, library, text=None, gguf=None):
        self.library, self.handle = library, ctypes.c_void_p()
        library.qs_error_text.restype = ctypes.c_char_p
        if gguf is not None:
            error = library.qs_tokenizer_from_gguf(ctypes.byref(self.handle), ctypes.byref(gguf), b"gguf")
        else:
            data = text.encode()
            error = library.qs_tokenizer_from_json(ctypes.byref(self.handle), data, ctypes.c_size_t(len(data)), b"json")
        if error != 0:
            raise ValueError("%d: %s" % (error, library.qs_error_text().decode()))

    def encode(self, text, specials=False):
        data, ids = text.encode(), TokenList()
        error = self.library.qs_tokenizer_encode(self.handle, data, ctypes.c_size_t(len(data)), ctypes.c_bool(specials),
                                                 ctypes.byref(ids))
        if error != 0:
            raise ValueError("%d: %s" % (error, self.library.qs_error_text().decode()))
        out = ids.ids[:ids.n]
        self.library.qs_token_list_free(ctypes.byref(ids))
        return out

    def decode(self, ids, skip):
        text, array = ctypes.c_char_p(), (ctypes.c_int32 * len(ids))(*ids)
        error = self.library.qs_tokenizer_decode(self.handle, array, ctypes.c_int64(len(ids)), ctypes.c_bool(skip),
                                                 ctypes.byref(text))
        if error != 0:
            raise ValueError("%d: %s" % (error, self.library.qs_error_text().decode()))
        out = text.value.decode()
        self.library.qs_mem_free(text)
        return out

    def close(self):
        self.library.qs_tokenizer_destroy(self.handle)


def mixed_text(rng):
    """Paragraphs of many scripts with words, white space, numbers and case shuffled."""
    words = " ".join(fixtures.PARAGRAPHS + [case for case in fixtures.CASES if case]).split(" ")
    blanks = [" "] * 20 + ["  ", "\n", "\n\n", "\t", " \n", "\r\n", "\u00a0", "\u3000", "   ", "", "", "-", "/", "'"]
    out, size = [], 0
    while size < TEXT_BYTES_MAX:
        word = rng.choice(words)
        if rng.random() < 0.1:
            word = word.upper()
        if rng.random() < 0.1:
            word = str(rng.randrange(10 ** rng.randrange(1, 9)))
        if rng.random() < 0.05:
            word = unicodedata.normalize(rng.choice(("NFD", "NFC", "NFKD")), word)
        out.append(word + rng.choice(blanks))
        size += len(out[-1].encode())
    return "".join(out)


def random_text(rng, n_bytes):
    """Random code points: half from small ranges where the rules change, half from anywhere."""
    out, size = [], 0
    while size < n_bytes:
        kind = rng.random()
        if kind < 0.35:
            code = rng.randrange(1, 0x80)
        elif kind < 0.5:
            code = rng.randrange(0x80, 0x600)
        elif kind < 0.55:
            code = rng.choice([0x2581, 0x3000, 0x85, 0xA0, 0x180E, 0x200D, 0x2028, 0x300, 0x301, 0x345, 0xFEFF, 0x17F])
        elif kind < 0.75:
            code = rng.randrange(0x600, 0x3100)
        else:
            code = rng.randrange(0x3100, 0x110000)
        if 0xD800 <= code < 0xE000:
            continue
        out.append(chr(code) * (rng.randrange(1, 5) if rng.random() < 0.2 else 1))
        size += len(out[-1].encode())
    return "".join(out)


def every_code_point():
    return "".join(chr(c) + ("a" if c % 3 == 0 else " " if c % 3 == 1 else "") for c in range(1, 0x110000)
                   if not 0xD800 <= c < 0xE000)


def first_difference(mine, theirs, peer):
    at = next((i for i, (a, b) in enumerate(zip(mine, theirs)) if a != b), min(len(mine), len(theirs)))
    show = [[peer.id_to_token(i) for i in ids[max(0, at - 3):at + 4]] for ids in (mine, theirs)]
    return "token %d: %r, expected %r" % (at, show[0], show[1])


class Comparison:
    def __init__(self):
        self.n_bad = 0

    def texts(self, label, mine, peer, texts, decode=True):
        """Every text with and without specials, and decoding of what came out."""
        n_tokens = n_bytes = n_bad = 0
        seconds = 0.0
        for text in texts:
            for specials in (False, True):
                started = time.perf_counter()
                got = mine.encode(text, specials)
                seconds += time.perf_counter() - started
                try:
                    expected = peer.encode(text, add_special_tokens=specials).ids
                except BaseException as error:  # a panic of the peer is none of pyo3's ordinary exceptions
                    if type(error).__name__ != "PanicException":
                        raise
                    continue
                n_tokens += len(expected)
                n_bytes += len(text.encode())
                if got != expected:
                    n_bad += 1
                    if n_bad <= 3:
                        print("  DIFFERS %s %r: %s" % (label, text[:40], first_difference(got, expected, peer)))
                if decode and "\0" not in text:
                    for skip in (False, True):
                        if mine.decode(expected, skip) != peer.decode(expected, skip_special_tokens=skip):
                            n_bad += 1
                            if n_bad <= 3:
                                print("  DECODES DIFFERENTLY %s %r" % (label, text[:60]))
        self.n_bad += n_bad
        print("%-34s %6d texts %9d bytes %9d tokens  %3d differ  %6.1f MB/s" % (
            label, len(texts), n_bytes, n_tokens, n_bad, n_bytes / max(seconds, 1e-9) / 1e6))
        sys.stdout.flush()


def variants(document):
    """The same vocabulary under other rules."""
    def changed(label, change):
        copied = copy.deepcopy(document)
        change(copied)
        return label, copied

    space = {"type": "Split", "pattern": {"Regex": r"\s+"}, "behavior": "Isolated", "invert": False}
    bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    is_bytes = "ByteLevel" in json.dumps(document["pre_tokenizer"])
    yield changed("no post-processor", lambda d: d.update(post_processor=None))
    yield changed("no decoder", lambda d: d.update(decoder=None))
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        yield changed(form, lambda d: d.update(normalizer={"type": form}))
    yield changed("replace", lambda d: d.update(normalizer={"type": "Replace", "pattern": {"Regex": r"\p{N}+|\s\S"},
                                                            "content": "<#>"}))
    for behavior in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            for pattern in ({"Regex": r"\s"}, {"Regex": r"\p{Lu}\p{L}*|\p{P}"}, {"String": "a"}):
                split = dict(space, behavior=behavior, invert=invert, pattern=pattern)
                steps = [split] + ([bytes_only] if is_bytes else [])
                yield changed("%s %s %s" % (behavior, invert, pattern), lambda d: d.update(
                    pre_tokenizer={"type": "Sequence", "pretokenizers": steps}))
    if is_bytes:
        for digits in (False, True):
            steps = [{"type": "Digits", "individual_digits": digits},
                     {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}]
            yield changed("prefix space, digits %s" % digits, lambda d: d.update(
                pre_tokenizer={"type": "Sequence", "pretokenizers": steps}))
    else:
        for scheme in ("always", "first", "never"):
            for split in (False, True):
                step = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": split}
                yield changed("metaspace %s %s" % (scheme, split), lambda d: d.update(
                    pre_tokenizer=step, decoder=dict(step)))
        yield changed("no fuse_unk", lambda d: d["model"].update(fuse_unk=False))
        yield changed("no unk_token", lambda d: d["model"].update(unk_token=None, byte_fallback=False))
    yield changed("ignore_merges", lambda d: d["model"].update(ignore_merges=True))
    yield changed("byte_fallback", lambda d: d["model"].update(byte_fallback=True))


def random_added(rng, document):
    """The same tokenizer with random added tokens over a small alphabet, and texts that are full of them."""
    copied = copy.deepcopy(document)
    alphabet = ["a", "b", " ", "<", ">", "\u00e9", "e\u0301", "\n", "\u2581", "_", "1"]
    copied["added_tokens"], contents = [], set()
    copied["post_processor"] = None
    next_id = len(copied["model"]["vocab"])
    for _ in range(rng.randrange(1, 12)):
        content = "".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 4)))
        if content in contents:
            continue
        contents.add(content)
        flags = {key: rng.random() < 0.3 for key in ("single_word", "lstrip", "rstrip", "normalized")}
        token_id = copied["model"]["vocab"].get(content, next_id)
        next_id += token_id == next_id
        copied["added_tokens"].append({"id": token_id, "content": content, "special": rng.random() < 0.3, **flags})
        # A special token whose normalised text differs is not skipped by the peer: a fault that is not followed.
        if flags["normalized"]:
            copied["added_tokens"][-1]["special"] = False
    parts = alphabet + sorted(contents) * 2
    texts = ["".join(rng.choice(parts) for _ in range(rng.randrange(1, 25))) for _ in range(150)]
    return copied, texts


def read_gguf(path):
    from gguf import GGUFReader
    reader = GGUFReader(path)
    field = {key[len("tokenizer.ggml."):]: reader.fields[key].contents() for key in reader.fields
             if key.startswith("tokenizer.ggml.")}
    tokens, merges = ([text.encode() for text in field[key]] for key in ("tokens", "merges"))
    add_bos = field.get("add_bos_token")
    return GgufVocab(
        model=field["model"].encode(), pre=field["pre"].encode(), n_vocab=len(tokens),
        tokens=(ctypes.c_char_p * len(tokens))(*tokens),
        token_bytes=(ctypes.c_int64 * len(tokens))(*map(len, tokens)),
        types=(ctypes.c_int32 * len(tokens))(*field["token_type"]), scores=None, n_merges=len(merges),
        merges=(ctypes.c_char_p * len(merges))(*merges), merge_bytes=(ctypes.c_int64 * len(merges))(*map(len, merges)),
        bos_id=field.get("bos_token_id", -1), eos_id=field.get("eos_token_id", -1), unknown_id=field.get("unknown_token_id", -1),
        add_bos=-1 if add_bos is None else int(add_bos), add_space_prefix=-1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--library", required=True, type=pathlib.Path)
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--text", action="append", default=[], help="a file; repeatable")
    parser.add_argument("--gguf")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--added", type=int, default=20, help="rounds of random added tokens for each tokenizer.json")
    parser.add_argument("tokenizers", nargs="*")
    args = parser.parse_args()
    if args.build:
        build(args.library)
    library = ctypes.CDLL(str(args.library.resolve()))
    rng = random.Random(args.seed)
    files = {path: open(path, encoding="utf-8", errors="replace").read() for path in args.text}
    big = {pathlib.Path(path).name: text.encode()[:TEXT_BYTES_MAX].decode(errors="ignore") for path, text in files.items()}
    big.update({"mixed scripts": mixed_text(rng), "random unicode": random_text(rng, TEXT_BYTES_MAX),
                "every code point": every_code_point()})
    short = fixtures.CASES + fixtures.PARAGRAPHS + [random_text(rng, rng.randrange(1, 60)) for _ in range(1500)]
    comparison = Comparison()

    pairs = []
    for path in args.tokenizers:
        text = open(path, encoding="utf-8").read()
        pairs.append((pathlib.Path(path).parent.name, Mine(library, text), Tokenizer.from_str(text), json.loads(text)))
    if args.gguf:
        pairs.append(("gguf", Mine(library, gguf=read_gguf(args.gguf)), fixtures.from_gguf(args.gguf), None))
    for label, mine, peer, document in pairs:
        comparison.texts(label + ": short", mine, peer, short)
        for name, text in big.items():
            comparison.texts(label + ": " + name, mine, peer, [text])
        mine.close()
        for n in range(args.added if document else 0):
            changed, texts = random_added(rng, document)
            text = json.dumps(changed)
            other = Mine(library, text)
            comparison.texts("%s (random added tokens %d)" % (label, n), other, Tokenizer.from_str(text), texts)
            other.close()
        for variant, changed in variants(document) if document else []:
            text = json.dumps(changed)
            other = Mine(library, text)
            comparison.texts("%s (%s)" % (label, variant), other, Tokenizer.from_str(text), short[:400])
            other.close()
    print("%d differences" % comparison.n_bad)
    sys.exit(1 if comparison.n_bad else 0)


if __name__ == "__main__":
    main()
