#!/usr/bin/env python3
"""Loads a directory that qsweep-train wrote with transformers and computes the held-out perplexity anew, for comparison
with the last line of its validation.csv.

    python scripts/peers/check_train.py MODEL held-out.jsonl [N]

Needs: torch, transformers. N: examples used (the --validate-examples of the run).
"""
import csv
import json
import math
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
eos = model.config.eos_token_id
nll, n, answer_nll, n_answer, whole, n_lines = 0.0, 0, 0.0, 0, 0, 0
with open(sys.argv[2]) as lines:
    for line in list(lines)[:int(sys.argv[3]) if len(sys.argv) > 3 else None]:
        example = json.loads(line)
        ids, answers = [], []
        for prompt, answer in [(example["prompt"], example["answer"])] + example.get("more", []):
            for text, is_answer in ((prompt, False), (answer, True)):
                part = tokenizer(text, add_special_tokens=False)["input_ids"] + ([eos] if is_answer else [])
                ids += part
                answers += [is_answer] * len(part)
        x = torch.tensor([ids])
        with torch.no_grad():
            logits = model(x).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, x[0, 1:], reduction="none")
        mask = torch.tensor(answers[1:])
        nll, n = nll + losses.sum().item(), n + len(losses)
        answer_nll, n_answer = answer_nll + losses[mask].sum().item(), n_answer + int(mask.sum())
        whole, n_lines = whole + bool((logits.argmax(-1) == x[0, 1:])[mask].all()), n_lines + 1
print(f"transformers: ppl {math.exp(nll / n):.6g}, of answers {math.exp(answer_nll / n_answer):.6g}, whole answers {whole / n_lines:.4g}")
last = list(csv.DictReader(open(sys.argv[1] + "/validation.csv")))[-1]
print(f"qsweep-train: ppl {last['ppl']}, of answers {last['answer_ppl']}, whole answers {last['answers_exact']}")
