#!/usr/bin/env python3
"""Makes the tokenizer.json of the project's own model: byte-level BPE, trained on the handbook's calibration and
production parts and on text of the world.

    make CUDA=0 build/datasets/world/generate
    scripts/peers/make_tokenizer.py --generate build/datasets/world/generate --out datasets/reader

Needs PyPI tokenizers. The same inputs give the same bytes. What is special about it:
- a space belongs to the word after it only when that word is in lower case: a name or a number is the same tokens
  after a space, after a quote and at the start of a line, so that an answer can copy them;
- digits come in groups of two at most;
- the snippet ids S000 to S255 are added tokens, one each;
- the syllables of names are words of their own while it is trained, so that no merge reaches across them.
"""
import argparse
import json
import pathlib
import re
import subprocess

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
END = "<|endoftext|>"
N_IDS = 256
PATTERN = r" ?\p{Ll}+|\p{Lu}\p{Ll}*|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+|\s"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--generate", required=True, type=pathlib.Path, help="the program of that name")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="directory of the model")
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--examples", type=int, default=3000, help="of the world, beside the handbook")
    args = parser.parse_args()

    def generate(*options):
        return subprocess.run([str(args.generate), *options], check=True, capture_output=True, text=True).stdout

    texts = [path.read_text(encoding="utf-8") for part in ("calibration", "production")
             for path in sorted((ROOT / "datasets/handbook" / part).glob("*.md"))]
    world = generate("--format", "text", "--examples", str(args.examples), "--seed", "1")
    syllables = [line.split() for line in generate("--format", "syllables").splitlines()]
    for first, second in (syllables[0:2], syllables[2:4]):
        world = re.sub(r"\b(%s)(%s)\b" % ("|".join(first), "|".join(second)), r"\1\n\2", world)
    texts.append(world)
    # Syllables again and again, so that what makes them comes before every other merge.
    texts += ["\n".join(syllable for line in syllables for syllable in line)] * 5000

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=args.vocab - N_IDS, special_tokens=[END], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken("S%03d" % i, normalized=False, special=False) for i in range(N_IDS)])
    assert tokenizer.get_vocab_size() == args.vocab

    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out / "tokenizer.json"), pretty=False)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "bos_token": None, "clean_up_tokenization_spaces": False}
    (args.out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
