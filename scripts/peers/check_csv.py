#!/usr/bin/env python3
"""Loads the tables of a sweep with pandas and checks that they mean what they should to it: numeric columns are
numbers, empty cells are missing, texts stay texts, and summary.csv has the columns of the contract.

    check_csv.py RESULTS_DIR        (a directory that qsweep-report --out wrote)
"""
import sys
from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype

TEXTS = {
    "summary.csv": {"config", "method", "variant", "backend", "device", "verdict", "failed"},
    "verdicts.csv": {"config", "gate", "op", "source", "verdict", "decided"},
    "layers.csv": {"config", "matrix"},
    "latency.csv": {"config", "metric", "unit", "backend", "device", "kernel"},
    "pareto.csv": {"config", "passes", "on_front", "recommended", "confirmed", "select_verdict", "confirm_verdict"},
}
SUMMARY = """config,method,bits,group_size,variant,bpw,bpw_total,bytes,ppl,ppl_ratio,ppl_ratio_lo,ppl_ratio_hi,kld_mean,
kld_p99,top1_agree,acc_loss_pct,qa_acc,dS_QE,dS_EA,dS_drift,anchor_drift,anchor_gap,cov_retr10,cov_cited,lambda_conv,
lambda_flip_rate,snippet_divergence,e_resonance_drift,entropy_stable,json_ok,cite_ok,prefill_tok_s,decode_ms_tok_p50,
decode_ms_tok_p95,latency_gain_pct,mem_before,mem_after_load,mem_peak,savings_visible,quantize_s,backend,device,verdict,
failed""".replace("\n", "").split(",")


def check(path: Path, texts: set) -> list:
    table = pd.read_csv(path)
    bad = [f"{path.name}: column {c} is {table[c].dtype}, not numeric"
           for c in table.columns if c not in texts and not is_numeric_dtype(table[c])]
    for c in texts & set(table.columns):
        cells = table[c].dropna().astype(str)
        bad += [f"{path.name}: {c}: {v!r} is a formula to a spreadsheet" for v in cells if v[:1] in ("=", "+", "-", "@")]
    print(f"{path.name}: {len(table)} rows, {len(table.columns)} columns")
    return bad


def main() -> int:
    out = Path(sys.argv[1])
    bad = [m for name, texts in TEXTS.items() for m in check(out / name, texts)]
    summary = pd.read_csv(out / "summary.csv")
    if list(summary.columns) != SUMMARY:
        bad.append("summary.csv: its columns are not those of the contract")
    if summary["config"].duplicated().any():
        bad.append("summary.csv: a config twice")
    known = set(summary["config"])
    for name in TEXTS:
        strange = set(pd.read_csv(out / name)["config"]) - known
        bad += [f"{name}: config {c} is not in summary.csv" for c in strange]
    print("\n".join(bad) if bad else "all numbers are numbers")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
