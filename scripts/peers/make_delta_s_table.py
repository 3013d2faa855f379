#!/usr/bin/env python3
"""Writes tests/fixtures/delta_s.csv: for the first items of the world gold set in all wordings, what retrieval finds and
how far things are from each other in the space of the tfidf encoder, reckoned here a second time with numpy in float64.

    make_delta_s_table.py --world datasets/world --out tests/fixtures/delta_s.csv

Columns: qid, wording, snippets (ids, best first), dS_QE, dS_EA, dS_QA, dS_AR, anchor_gap, cov_retr10. Answers are the gold
answers. Definitions: docs/delta-s.md, docs/coverage.md.
"""
import argparse
import csv
import json
import math
import pathlib
import re
import unicodedata

import numpy

N_ITEMS, K, POOL = 20, 5, 20


def terms(text):
    return re.findall(r"\w+", unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()))


class Index:
    def __init__(self, documents):
        self.documents = [terms(d) for d in documents]
        self.n = len(documents)
        self.df = {}
        for d in self.documents:
            for t in set(d):
                self.df[t] = self.df.get(t, 0) + 1
        self.column = {t: i for i, t in enumerate(sorted(self.df))}
        self.mean_length = sum(map(len, self.documents)) / self.n
        self.vectors = numpy.stack([self.vector_of(d) for d in self.documents])

    def vector_of(self, words):
        v = numpy.zeros(len(self.df))
        for t in set(words) & set(self.df):
            v[self.column[t]] = (1 + math.log(words.count(t))) * (1 + math.log((1 + self.n) / (1 + self.df[t])))
        return v / (numpy.linalg.norm(v) or 1.0)

    def encode(self, text):
        return self.vector_of(terms(text))

    def bm25(self, question):
        def one(d):
            norm = 1.2 * (0.25 + 0.75 * len(d) / self.mean_length)
            return sum(math.log(1 + (self.n - self.df[t] + 0.5) / (self.df[t] + 0.5)) * d.count(t) * 2.2 / (d.count(t) + norm)
                       for t in terms(question) if t in d)
        return [one(d) for d in self.documents]


def ranks(scores, key):
    order = sorted(range(len(scores)), key=lambda i: (-round(scores[i], 7), key[i]))
    return {i: r + 1 for r, i in enumerate(order) if scores[i] > 0}


def delta_s(a, b):
    return min(max(1.0 - float(a @ b), 0.0), 1.0) if a.any() and b.any() else 1.0


def unit(v):
    return v / (numpy.linalg.norm(v) or 1.0)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--world", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    corpus, gold = ([json.loads(line) for line in (args.world / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
                    for name in ("corpus", "gold"))
    index = Index([f"{s['header']}\n{s['text']}" for s in corpus])
    key = [(s["section_id"], s["snippet_id"]) for s in corpus]
    sections = list(dict.fromkeys(s["section_id"] for s in corpus))
    section = {name: unit(sum(index.vectors[i] for i, s in enumerate(corpus) if s["section_id"] == name)) for name in sections}
    with open(args.out, "w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["qid", "wording", "snippets", "dS_QE", "dS_EA", "dS_QA", "dS_AR", "anchor_gap", "cov_retr10"])
        for item in gold[:N_ITEMS]:
            for wording, question in enumerate([item["question"], *item["paraphrases"]]):
                q = index.encode(question)
                lists = [ranks(index.bm25(question), key), ranks([float(q @ v) for v in index.vectors], key)]
                fused = [sum(1 / (60 + r[i]) for r in lists if i in r) for i in range(index.n)]
                order = sorted(range(index.n), key=lambda i: (-round(fused[i], 12), key[i]))
                pool = [i for i in order if fused[i] > 0][:POOL]
                e = unit(sum(index.vectors[i] for i in pool[:K]))
                answer = index.encode(item["answer"])
                row = [delta_s(q, e), math.nan, delta_s(q, answer), delta_s(answer, answer), math.nan, math.nan]
                if item["anchor"]:
                    home = next(s for s in corpus if s["snippet_id"] == item["anchor"]["snippet_id"])
                    span = home["text"].encode()[item["anchor"]["start"] - home["start"]:item["anchor"]["end"] - home["start"]]
                    anchor = index.encode(f"{home['header']}\n{span.decode()}")
                    at = sections.index(item["target_section"])
                    others = {item["decoy_section"], *sections[max(at - 1, 0):at], *sections[at + 1:at + 2]} - {sections[at]}
                    target = [s for s in corpus if s["section_id"] == item["target_section"]]
                    found = {corpus[i]["snippet_id"] for i in pool[:10]}
                    row[1] = delta_s(e, anchor)
                    row[4] = min(delta_s(e, section[o]) for o in others) - row[1]
                    row[5] = sum(s["tokens"] for s in target if s["snippet_id"] in found) / sum(s["tokens"] for s in target)
                out.writerow([item["qid"], wording, " ".join(corpus[i]["snippet_id"] for i in pool[:K]),
                              *("" if math.isnan(x) else f"{x:.6f}" for x in row)])


if __name__ == "__main__":
    main()
