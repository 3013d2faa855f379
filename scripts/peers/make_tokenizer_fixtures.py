#!/usr/bin/env python3
"""Writes tests/fixtures/tokenizer/: small tokenizers of every supported kind, trained here with the
`tokenizers` library on a text that this script makes, and for each the tokens and decoded text of a list of
cases according to that library.

    make_tokenizer_fixtures.py --out tests/fixtures/tokenizer [--gguf MODEL.gguf] [--fuzz tests/fuzz/corpus/tokenizer_json]

--fuzz adds seeds for the fuzz target tokenizer_json: each tokenizer cut down to a few dozen tokens.

<kind>/tokenizer.json and <kind>/cases.jsonl; each line of cases.jsonl is
    {"text", "ids", "ids_special", "decoded", "decoded_skip"}
ids without and with the post-processor; decoded from ids_special, special tokens kept and skipped.
--gguf adds smollm2_gguf/cases.jsonl: the same texts by a tokenizer that is made of the file's own vocabulary
and merges and the SmolLM2 pre-tokeniser.
"""
import argparse
import json
import pathlib

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)

MARK = "\u2581"

LLAMA3_REGEX = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2_REGEX = LLAMA3_REGEX.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN_REGEX = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
                r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
                r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")

# ---- texts ----

PARAGRAPHS = [
    # English
    "The calibration set should look like the traffic that the model will serve. Short prompts from one "
    "domain teach the quantiser about one corner of the weights only. It's easy to check, isn't it? We've "
    "measured 1,024 samples of 512 tokens; they'll do, I'd say, and you're welcome to count 3.14159 again.",
    "Before you ship a model, compare every candidate with the reference: latency, memory, perplexity and the "
    "answers themselves. The answers matter most. THE ANSWERS MATTER MOST! Don't trust a single number.",
    # code
    "static int count(const char *text, size_t n)\n{\n    int words = 0;\n\tfor (size_t i = 0; i < n; i++) {\n"
    "\t\tif (text[i] == ' ' || text[i] == '\\t') words++;\n\t}\n    return words; /* 0x1F, 1e-5f, ~0u */\n}\r\n",
    "def mean(values):\n    total = sum(values)\n    return total / len(values) if values else 0.0\n\n\n"
    "SELECT id, name FROM users WHERE age >= 18 AND city != 'Bern';\n",
    # German, Greek, Cyrillic
    "Die Größe der Gewichte ändert sich, während die Übertragung läuft; das Maß muß gemessen werden. Straße, "
    "Öl, äußerst, Überprüfung. 'Schön', sagte er, \u201ewirklich schön\u201c.",
    "Η βαθμονόμηση πρέπει να μοιάζει με την παραγωγή. Τα βάρη είναι μικρά, αλλά οι διαφορές μεγάλες.",
    "Калибровочный набор должен быть похож на рабочий поток. Числа: 12, 345 и 6789. Это важно, правда?",
    # Chinese, Japanese, Korean, Thai
    "量化模型之前,请先检查校准数据。模型的权重会变小,但是答案不能变差。一共有三百二十一个样本。",
    "量子化したモデルの答えを、元のモデルと比べてください。カタカナとひらがなと漢字が混ざっています。",
    "양자화된 모델의 답을 원래 모델과 비교하십시오. 한국어 문장입니다.",
    "แบบจำลองที่ลดขนาดแล้วต้องตอบเหมือนเดิม",
    # Arabic, Hebrew, Devanagari
    "يجب أن تشبه بيانات المعايرة حركة المرور الحقيقية. الأرقام ٠١٢٣٤٥٦٧٨٩ هنا.",
    "נתוני הכיול צריכים להיות דומים לתעבורה האמיתית.",
    "मॉडल के उत्तर पहले जैसे होने चाहिए। संख्या १२३४५ यहाँ है।",
]

CASES = [
    "", " ", "  ", "\n", "\t", "a", "A", "é", "\u4f60", "0", "12345678901234567890", "Hello, world!", " Hello",
    "Hello ", "  two  spaces  between   words    ", "a  b", "a \n b", "line one\nline two\r\nline three\r\n\r\n",
    "\n\n\n   \n\t\t indented\n", "tabs\t\tand spaces \t mixed \u00a0 with no-break",
    "it's I've you'll THEY'RE we'd I'm don't 'tis 's'S 'LL 'sS '\u017f", "x=1;y=x**2+3.5e-7 if(a!=b){c->d++;}",
    "2024-01-31T12:00:00Z costs $1,234,567.89 (50%)", "1 22 333 4444 55555 a1b22c333", " 7 8  9   10\n11\n 12",
    "٠١٢٣٤٥ १२३४५ ೧೨೩ ๑๒๓ ½ ¼ ² ³ Ⅷ ⅻ 〇 一二三 ①②③ 𝟘𝟙𝟚 ௰ ၁၂",
    "naïve café résumé coöperate", "nai\u0308ve cafe\u0301 re\u0301sume\u0301 e\u0323\u0302 \u1112\u1161\u11ab A\u030a\u0327",
    "\u212b \u2126 \u00c5 \ufb01 \u1e9b\u0323 \u0344 \u0958",
    "😀 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇨🇭🇯🇵 ❤️ 1️⃣ text😀text", "x\u200by\u200cz\u200d \ufeff \u2060 \u00ad soft\u00adhyphen",
    "\u0001\u0002\u0007\u0008\u000b\u000c\u001b[0m\u001f\u007f\u0085\u009f control",
    "space kinds:\u2000\u2001\u2002\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000\u180e\u1680end",
    "\u3000\u3000全角\u3000空白\u3000", "mixed漢字kanaカナ한글عربيעברית русский Ελληνικά", "ünïcödé ÀÉÎÕÜ ßẞ ŒœÆæ Łł Đđ",
    "\ud7ff\ue000\uf8ff\ufffd \U00010348 \U0001F9FF \U0010FFFD \U000E0041", "\U00020000\U0002A6DF\U0002EBF0\U00031350 \u0897 \U00010D40 \U00016D70",
    "\u2581 \u2581\u2581 under\u2581scored \u2581lead trail\u2581", "Ġ Ċ ĉ Ģ ģ ĠĠ byte alphabet Ġword Ã© â",
    "<s>", "</s>", "<unk>", "<|endoftext|>", "<|begin_of_text|>", "<|im_start|>user\nHi<|im_end|>\n", "<0x41><0x0A> <0xFF>",
    "text<|endoftext|>text", "text <|endoftext|> text", " <|im_start|> <|im_end|> ", "<|endoftext|><|endoftext|>",
    "<|endoftext", "a<mask>b a <mask> b a  <mask>  b", "left   <lstrip>   right", "left \u3000<rstrip> \n right",
    "<both>   <both>\t<both>x", "  <lstrip>", "<rstrip>  ", "word<single>word word <single> word (<single>) _<single> <single>",
    "<single>", "<single><single>", "é<single> \u0301<single> 1<single> -<single>-", "NORM norm Norm cafénorm cafe\u0301",
    "café<x>cafe\u0301<x>", "<x> caf\u00e9", "ab abc abcd abcde abcdef", "<a><ab><abc><abcd", "longest<<<a>>>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "the the the THE The tHe", " calibration calibrationcalibration Calibration", "quantiser\u2019s \u201cquoted\u201d \u2013 dash \u2014 dash",
    "https://example.org/path/to?x=1&y=%20#frag user@example.org", "{\"key\": [1, 2.5, null, true], \"s\": \"a\\nb\\\"c\"}",
    "\\frac{a}{b} \\sum_{i=0}^{n} x_i^2 \\leq \\epsilon", "| a | b |\n|---|---|\n| 1 | 2 |\n", "- [ ] item\n  * nested\n    1. deep\n",
    "!!! ??? ... --- === ### $$$ @@@ &&& *** ((())) [[[]]] ;;; :::",
    "a" + "\u0300" * 30 + "b", "\U0001F468\u200d" * 8, " ".join(str(10 ** k) for k in range(12)),
]


# Long enough for the library under test to keep pieces in its cache, with most words twice.
LONG = "\n".join(PARAGRAPHS + PARAGRAPHS[::-1])


def training_text():
    lines = []
    for _ in range(4):
        for paragraph in PARAGRAPHS:
            lines.append(paragraph)
    lines += [case for case in CASES if case and "<" not in case]
    return lines


# ---- tokenizers ----

def added(content, **flags):
    return AddedToken(content, **{"normalized": False, **flags})


# Added tokens of several flags, the same for every kind.
ADDED = [
    added("<mask>"), added("<lstrip>", lstrip=True), added("<rstrip>", rstrip=True), added("<both>", lstrip=True, rstrip=True),
    added("<single>", single_word=True), added("<x>", special=True), added("<a>"), added("<ab>"), added("<abc>", lstrip=True),
    AddedToken("caf\u00e9norm", normalized=True), AddedToken("NORM", normalized=True, single_word=True),
    AddedToken("abcde", normalized=True, rstrip=True),
]


def train(tokenizer, vocab_size, specials, alphabet=(), prefix_space_text=False):
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=specials, initial_alphabet=sorted(alphabet),
                                  show_progress=False, limit_alphabet=700, min_frequency=2)
    tokenizer.train_from_iterator(training_text(), trainer)
    return tokenizer


def byte_level(pre_tokenizer, specials, normalizer=None, vocab_size=1400):
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    return train(tokenizer, vocab_size, specials, pre_tokenizers.ByteLevel.alphabet())


def make_gpt2():
    tokenizer = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_tokens(ADDED)
    return tokenizer


def make_smollm2():
    pre = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                   pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer = byte_level(pre, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens(ADDED)
    return tokenizer


def split_then_bytes(regex):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def make_llama3():
    tokenizer = byte_level(split_then_bytes(LLAMA3_REGEX), [])
    document = json.loads(tokenizer.to_str())
    # Words without a merge that makes them: only ignore_merges finds these.
    vocab = document["model"]["vocab"]
    for word in ("Ġquantiser", "Ġperplexity", "calibration", "ĠÃ¤uÃŁerst"):
        vocab.setdefault(word, len(vocab))
    document["model"]["ignore_merges"] = True
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.add_special_tokens([added("<|begin_of_text|>", special=True), added("<|end_of_text|>", special=True),
                                  added("<|eot_id|>", special=True)])
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|> $B",
                                      special_tokens=[("<|begin_of_text|>", bos)])])
    tokenizer.add_tokens(ADDED)
    return tokenizer


def make_qwen2():
    tokenizer = byte_level(split_then_bytes(QWEN2_REGEX), [], normalizers.NFC())
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([added(t, special=True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    tokenizer.add_tokens(ADDED)
    return tokenizer


def make_tekken():
    tokenizer = byte_level(split_then_bytes(TEKKEN_REGEX), ["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    tokenizer.add_tokens(ADDED)
    return tokenizer


def sentencepiece(vocab_size=1800, phrase=None):
    """A BPE model with byte fallback, in the form that converted SentencePiece models have: the score of a token
    falls with its id, and every way to cut a token in two tokens is a merge of that score. `phrase` adds a token
    that reaches over a space."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always")
    specials = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % byte for byte in range(256)]
    train(tokenizer, vocab_size, specials)
    document = json.loads(tokenizer.to_str())
    # SentencePiece's byte tokens are part of the model, not added tokens.
    document["added_tokens"] = document["added_tokens"][:3]
    vocab = document["model"]["vocab"]
    for token in [MARK * n for n in (2, 3, 4, 8)] + ([phrase] if phrase else []):
        vocab[token] = len(vocab)
    merges = []
    for token in sorted(vocab, key=vocab.get)[len(specials):]:
        cuts = [(token[:at], token[at:]) for at in range(1, len(token))]
        merges += sorted((c for c in cuts if c[0] in vocab and c[1] in vocab), key=lambda c: (vocab[c[0]], vocab[c[1]]))
    document["model"]["merges"] = merges
    return Tokenizer.from_str(json.dumps(document))


def make_llama2():
    tokenizer = sentencepiece()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    document = json.loads(tokenizer.to_str())
    document["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_tokens(ADDED)
    return tokenizer


def make_mistral():
    tokenizer = sentencepiece(1400, phrase=MARK + "the" + MARK + "answers")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_tokens(ADDED)
    return tokenizer


def make_metaspace():
    """Split at the mark, no byte fallback: unknown characters become <unk>, runs of them one."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement=MARK, prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator(PARAGRAPHS[:5] * 4, trainer)  # English, code, German: the rest is unknown
    tokenizer.add_tokens(ADDED)
    return tokenizer


KINDS = {"gpt2": make_gpt2, "smollm2": make_smollm2, "llama3": make_llama3, "qwen2": make_qwen2, "tekken": make_tekken,
         "llama2": make_llama2, "mistral": make_mistral, "metaspace": make_metaspace}


def from_gguf(path):
    """The Hugging Face form of the tokenizer inside a SmolLM2 GGUF file."""
    from gguf import GGUFReader
    reader = GGUFReader(path)
    field = {key: reader.fields[key].contents() for key in reader.fields if key.startswith("tokenizer.")}
    assert field["tokenizer.ggml.model"] == "gpt2" and field["tokenizer.ggml.pre"] == "smollm"
    vocab = {token: i for i, token in enumerate(field["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in field["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    control = [t for t, kind in zip(field["tokenizer.ggml.tokens"], field["tokenizer.ggml.token_type"]) if kind in (2, 3)]
    tokenizer.add_special_tokens([added(token, special=True) for token in control])
    if field.get("tokenizer.ggml.add_bos_token"):
        bos = field["tokenizer.ggml.bos_token_id"]
        token = field["tokenizer.ggml.tokens"][bos]
        tokenizer.post_processor = processors.TemplateProcessing(single=token + " $A", special_tokens=[(token, bos)])
    return tokenizer


def write_cases(tokenizer, path):
    with open(path, "w", encoding="utf-8") as out:
        for text in CASES + PARAGRAPHS + [LONG]:
            with_special = tokenizer.encode(text).ids
            row = {"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids, "ids_special": with_special,
                   "decoded": tokenizer.decode(with_special, skip_special_tokens=False),
                   "decoded_skip": tokenizer.decode(with_special, skip_special_tokens=True)}
            out.write(json.dumps(row, ensure_ascii=True, separators=(",", ":")) + "\n")


def cut_down(document, n_merges=12):
    """The same rules with the first merges only and the tokens that these need, ids renumbered."""
    document = json.loads(json.dumps(document))
    model = document["model"]
    model["merges"] = model["merges"][:n_merges]
    needed = set("ab 1\u2581\u0120") | {"<unk>", "<s>", "<0x0A>", "<|begin_of_text|>"}
    for left, right in model["merges"]:
        needed |= set(left) | set(right) | {left, right, left + right}
    added = {token["content"] for token in document["added_tokens"]}
    kept = [t for t in sorted(model["vocab"], key=model["vocab"].get) if t in needed or t in added]
    model["vocab"] = {token: i for i, token in enumerate(kept)}
    next_id = len(kept)
    for token in document["added_tokens"]:
        token["id"] = model["vocab"].get(token["content"], next_id)
        next_id += token["id"] == next_id
    ids = {token["content"]: token["id"] for token in document["added_tokens"]}
    post = document["post_processor"] or {}
    for step in post.get("processors", [post]):
        for name, special in step.get("special_tokens", {}).items():
            special["ids"] = [ids[name]]
    return document


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--gguf", help="a SmolLM2 GGUF file, for smollm2_gguf/cases.jsonl")
    parser.add_argument("--fuzz", type=pathlib.Path)
    args = parser.parse_args()
    for kind, make in KINDS.items():
        folder = args.out / kind
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = make()
        document = json.loads(tokenizer.to_str())
        (folder / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n",
                                               encoding="utf-8")
        # What was written is what the cases are about.
        write_cases(Tokenizer.from_file(str(folder / "tokenizer.json")), folder / "cases.jsonl")
        if args.fuzz:
            args.fuzz.mkdir(parents=True, exist_ok=True)
            small = json.dumps(cut_down(document), ensure_ascii=False, separators=(",", ":"))
            Tokenizer.from_str(small)
            (args.fuzz / (kind + ".json")).write_text(small, encoding="utf-8")
        print(kind, tokenizer.get_vocab_size(), (folder / "tokenizer.json").stat().st_size, "bytes")
    if args.gguf:
        folder = args.out / "smollm2_gguf"
        folder.mkdir(parents=True, exist_ok=True)
        write_cases(from_gguf(args.gguf), folder / "cases.jsonl")
        print("smollm2_gguf")


if __name__ == "__main__":
    main()
