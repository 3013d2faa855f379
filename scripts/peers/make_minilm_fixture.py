#!/usr/bin/env python3
"""Writes tests/fixtures/minilm/: a sentence-transformers directory with a tiny BERT of random weights, and cases.jsonl
with {"text", "ids", "vector"} according to `tokenizers` and sentence-transformers.

    make_minilm_fixture.py --out tests/fixtures/minilm
"""
import argparse
import json
import pathlib

import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

LIMIT = 24
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = ["the", "pump", "gate", "weir", "is", "red", "what", "un", "##ing", "##ed", "##able", "##s", "keep", "##er",
         "\u91cf", "\u5316", "\u03c3", "##\u03c3", "\u03b1", "\u0439", "\u0438", "##\u094d", "\u0915", "\u00f8", "stra", "##\u00df", "##ss"]
PUNCTUATION = list(".,?!-'()[]#$^\u2014\u00bf\u3002")

TEXTS = ["", " \t\n", "The pump is RED.", "What is the keeper?", "unkeepable-pumped, gates!", "caf\u00e9 CAFE\u0301 \u0130s",
         "\u91cf\u5316 a\u91cfb", "\u03a3\u03b1\u03c2 \u039f", "\u0419\u0418", "\u0915\u094d\u0915", "Stra\u00dfe \u00d8", "a\u200bb\u00adc\u0000d\ufffde".replace("\u0000", "\u0001"),
         "nbsp\u00a0em\u2003space", "[CLS] gate [SEP][MASK] [cls", "##ing ing ##", "pump " * 40, "?" * 30, "x" * 100, "x" * 101,
         "\U0001f600 gate", "the\u2014gate\u3002\u00bfred", "weir\r\nweir", "a", "12 345 6^7$", "e\u0301\u0302"]


def make_tokenizer(path):
    vocab = SPECIAL + list(LETTERS) + ["##" + c for c in LETTERS] + WORDS + PUNCTUATION
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(vocab)}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
                                                             special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.save(str(path), pretty=False)
    return len(vocab)


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    n_vocab = make_tokenizer(out / "tokenizer.json")
    torch.manual_seed(1)
    config = BertConfig(vocab_size=n_vocab, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
                        intermediate_size=24, max_position_embeddings=32, initializer_range=0.3)
    model = BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():  # LayerNorms begin as the identity, which would hide a mistake in them
        for name, value in model.named_parameters():
            if "LayerNorm" in name or name.endswith("bias"):
                value += 0.2 * torch.randn_like(value)
    model.save_pretrained(out)
    write_json(out / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "model_max_length": 32,
                                               "do_lower_case": True})
    write_json(out / "sentence_bert_config.json", {"max_seq_length": LIMIT, "do_lower_case": False})
    write_json(out / "1_Pooling" / "config.json", {"word_embedding_dimension": 16, "pooling_mode_cls_token": False,
                                                   "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False,
                                                   "pooling_mode_mean_sqrt_len_tokens": False})
    write_json(out / "modules.json",
               [{"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{t}"}
                for i, (p, t) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")])])
    peer = SentenceTransformer(str(out), device="cpu")
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    tokenizer.enable_truncation(max_length=LIMIT)
    with open(out / "cases.jsonl", "w", encoding="utf-8") as file:
        for text in TEXTS:
            vector = [float(f"{x:.9g}") for x in peer.encode(text)]
            file.write(json.dumps({"text": text, "ids": tokenizer.encode(text).ids, "vector": vector}) + "\n")


if __name__ == "__main__":
    main()
