#!/usr/bin/env python3
"""Holds the encoder `minilm` against sentence-transformers, and its WordPiece against `tokenizers`.

    compare_minilm.py --model DIR --tool build/tests/tool_embed --corpus FILE.jsonl [--code-points]

Embeddings: at least 200 texts (empty, blank, long, cut at the limit, many scripts, special tokens, snippets of the
corpus); the largest difference of an element must be below 1e-4. Token ids of the same texts must be equal.
--code-points also compares the ids of every code point of planes 0 to 3 and 14 between two letters and says which differ.
Needs sentence-transformers, and torch.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import unicodedata

import numpy
from sentence_transformers import SentenceTransformer

TEXTS = [
    "", " ", "\n\t", "a", "Hello, world!", "HELLO WORLD", "hello   world", " padded ", "tab\tand\nline end\r\n",
    "Don't stop; it's 3.14 o'clock (really) -- e-mail: a.b@c.org, 50% off & more/less #1 $5 ^_^ ~`{}[]|\\<>=+*",
    "caf\u00e9 cafe\u0301 CAF\u00c9 na\u00efve \u00c5ngstr\u00f6m \u0130stanbul I\u0307 \u1e9e stra\u00dfe \ufb01ne \u2460 \u00bd x\u00b2",
    "\u03a3\u03ac\u03c2 \u039f\u0394\u039f\u03a3 \u03b1\u0301", "\u041c\u043e\u0441\u043a\u0432\u0430 \u0439 \u0451 \u0419",
    "\u91cf\u5316\u6a21\u578b\u4e4b\u524d,\u8bf7\u5148\u68c0\u67e5\u6570\u636e\u3002", "\u91cf\u5b50\u5316\u3057\u305f\u30e2\u30c7\u30eb\u306e\u7b54\u3048\u3092\u3001\u304c\u30ac",
    "\uc591\uc790\ud654\ub41c \ubaa8\ub378\uc758 \ub2f5", "\u0e41\u0e1a\u0e1a\u0e08\u0e33\u0e25\u0e2d\u0e07", "\u092e\u0949\u0921\u0932 \u0915\u0947 \u0909\u0924\u094d\u0924\u0930",
    "\u064a\u064e\u062c\u0650\u0628\u064f \u0623\u0646", "\u05e0\u05b0\u05ea\u05d5\u05bc\u05e0\u05d9", "Vi\u1ec7t Nam \u1ec7\u1ed9\u01b0\u01a1\u0301",
    "\U0001f600\u200d\U0001f468\U0001f469 \u2764\ufe0f", "a\u00a0b\u2003c\u200bd\u200de\ufeffe\u00adf", "\u0001a\u0007b\u007fc\u0085d\ufffde\ue000f",
    "\u2014dash\u2013dash\u2026dots\u201cquotes\u201d\u2018single\u2019 \u00bfque? \u00a1no! \u300c\u304b\u304e\u300d \u20ac5 \u00a32 \u00a7 \u00b6",
    "[CLS] literal [SEP] and [MASK], [mask], [PAD][UNK] [CLS", "##ing ## # unaffable", "x" * 100, "x" * 101, "word " * 300, "supercalifragilisticexpialidocious " * 60,
    "1234567890 " * 40, "\u6f22" * 300, "." * 400, "Antidisestablishmentarianism; pneumonoultramicroscopicsilicovolcanoconiosis.",
    "int main(void) { return printf(\"%d\\n\", 0x1F); } /* comment */", "SELECT id FROM users WHERE age >= 18;", "https://example.org/a?b=c&d=e#f",
    "the the the the", "The Weir Wynmere keeper is Yosick.", "?", "\u0301", "a\u0301\u0302\u0303", "\u1e69\u0323 \u0323\u0307s", "\u00e6\u00f8\u0142\u0111\u00fe\u00f0",
]


def texts(corpus):
    lines = [json.loads(line) for line in pathlib.Path(corpus).read_text(encoding="utf-8").splitlines()]
    out = list(TEXTS)
    out += [f"{s['header']}\n{s['text']}" for s in lines[:120]]
    out += [s["text"] for s in lines[120:170]]
    out += [" ".join(s["text"] for s in lines[i:i + 20]) for i in range(0, 100, 20)]  # longer than the limit
    return out


def run_tool(tool, what, model, items):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        for item in items:
            file.write(json.dumps(item) + "\n")
        file.flush()
        return subprocess.run([tool, what, model, file.name], check=True, stdout=subprocess.PIPE).stdout


def ids_of(tool, model, items):
    return [[int(i) for i in line.split()] for line in run_tool(tool, "ids", model, items).decode().split("\n")[:-1]]


def peer_ids(peer, items):
    backend = peer.tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(max_length=256)
    return [e.ids for e in backend.encode_batch(items)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--tool", required=True)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--code-points", action="store_true")
    args = parser.parse_args()
    peer = SentenceTransformer(args.model, device="cpu")
    failed = False
    if args.code_points:
        points = [c for c in [*range(1, 0x32400), *range(0xE0000, 0xE0200)] if not 0xD800 <= c < 0xE000]
        items = [f"a{chr(c)}b" for c in points]
        differ = [c for c, x, y in zip(points, ids_of(args.tool, args.model, items), peer_ids(peer, items)) if x != y]
        print(f"code points: {len(points)}, ids differ for {len(differ)}")
        for c in differ[:40]:
            print(f"  U+{c:04X} {unicodedata.category(chr(c))} {unicodedata.name(chr(c), '?')}")
    items = texts(args.corpus)
    mine, theirs = ids_of(args.tool, args.model, items), peer_ids(peer, items)
    for i, item in enumerate(items):
        if mine[i] != theirs[i]:
            failed = True
            print(f"ids differ for {item[:60]!r}:\n  {mine[i][:24]}\n  {theirs[i][:24]}")
    rows = numpy.frombuffer(run_tool(args.tool, "vectors", args.model, items), dtype="<f4").reshape(len(items), -1)
    wanted = numpy.stack([peer.encode(item) for item in items])
    error = numpy.abs(rows - wanted).max(axis=1)
    print(f"{len(items)} texts, {sum(len(t) == 256 for t in theirs)} cut at 256 tokens: largest difference {error.max():.3g} "
          f"({items[int(error.argmax())][:40]!r}), smallest cosine {(rows * wanted).sum(axis=1).min():.9f}")
    sys.exit(1 if failed or not error.max() < 1e-4 else 0)


if __name__ == "__main__":
    main()
