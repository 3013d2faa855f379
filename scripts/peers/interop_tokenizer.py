"""An exported tokenizer.json by the `tokenizers` library against qsweep's tokens.

usage: interop_tokenizer.py DIR CASES.jsonl                                                     (needs tokenizers)

CASES.jsonl: a line each with "text", "ids" and "ids_special" (tests/fixtures/tokenizer/*/cases.jsonl), the tokens that
qsweep gives for the parent. Exit status 1 when a text has other tokens.
"""
import json
import sys

import tokenizers


def main():
    tokenizer = tokenizers.Tokenizer.from_file(sys.argv[1] + "/tokenizer.json")
    n, wrong = 0, 0
    for line in open(sys.argv[2], encoding="utf-8"):
        row = json.loads(line)
        for key, special in (("ids", False), ("ids_special", True)):
            if tokenizer.encode(row["text"], add_special_tokens=special).ids != row[key]:
                wrong += 1
                print("differs:", repr(row["text"])[:100])
            n += 1
    print(f"{n} encodings, {wrong} differ", "ok" if wrong == 0 else "FAILED")
    sys.exit(0 if wrong == 0 and n > 0 else 1)


main()
