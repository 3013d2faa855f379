#!/usr/bin/env python3
"""Writes tests/fixtures/chat/: conversations as transformers' apply_chat_template renders and encodes them.

    make_chat_fixture.py --tokenizers tests/fixtures/tokenizer --out tests/fixtures/chat [--gguf MODEL.gguf]

Templates of cases.jsonl are written here, as short as what they do allows: the turns of the publishers' templates without their tools
and checks. Each line is
    {"row", "template", "bos", "eos", "messages", "text", "kind", "tokens", "ids"}
where text has the head of an answer behind it, kind names a tokenizer of --tokenizers, tokens are the special tokens
that it lacks, added behind its last id, and ids are the tokens of text.
"""
import argparse
import json
import pathlib

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

CHATML_TURNS = ("{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
                "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
CHATML_FIRST = ("{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
                "{{ '<|im_start|>system\\n@<|im_end|>\\n' }}{% endif %}")
SMOLLM2 = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
QWEN25 = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
SYSTEM_APART = ("{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
                "{%- set rest = messages[1:] %}{%- else %}{%- set rest = messages %}{%- endif %}")
MISTRAL = (SYSTEM_APART + "{{- bos_token }}{%- for message in rest %}{%- if message['role'] == 'user' %}"
           "{%- if loop.first and system_message is defined %}"
           "{{- \"HEAD\" + system_message + \"\\n\\n\" + message['content'] + \"TAIL\" }}"
           "{%- else %}{{- \"HEAD\" + message['content'] + \"TAIL\" }}{%- endif %}"
           "{%- else %}{{- GAPmessage['content'] + eos_token }}{%- endif %}{%- endfor %}")


def mistral(head, tail, gap):
    return MISTRAL.replace("HEAD", head).replace("TAIL", tail).replace("GAP", f"\"{gap}\" + " if gap else "")


LLAMA3_TURN = ("'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + "
               "'<|eot_id|>'")
LLAMA3_ANSWER = ("{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
                 "{% endif %}")
# Phi-3 names its roles one by one.
PHI3 = "{% for message in messages %}" + "".join(
    f"{{% {'if' if i == 0 else 'elif'} message['role'] == '{r}' %}}{{{{'<|{r}|>\\n' + message['content'] + '<|end|>\\n'}}}}"
    for i, r in enumerate(("system", "user", "assistant"))) + (
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}")

S, EOT = ["<s>", "</s>"], ["<|start_header_id|>", "<|end_header_id|>"]

# row, template, fixture tokenizer, BOS, EOS, tokens it lacks
ROWS = [
    ("smollm2", CHATML_FIRST.replace("@", SMOLLM2) + CHATML_TURNS, "smollm2", "<|im_start|>", "<|im_end|>", []),
    ("qwen2", CHATML_FIRST.replace("@", "You are a helpful assistant.") + CHATML_TURNS, "qwen2", None, "<|im_end|>", []),
    ("qwen2.5", "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]['content'] + "
     "'<|im_end|>\\n' }}{%- else %}{{- '<|im_start|>system\\n" + QWEN25 + "<|im_end|>\\n' }}{%- endif %}"
     "{%- for message in messages %}{%- if message['role'] != 'system' %}{{- '<|im_start|>' + message['role'] + '\\n' + "
     "message['content'] + '<|im_end|>' + '\\n' }}{%- endif %}{%- endfor %}"
     "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}", "qwen2", None, "<|im_end|>", []),
    ("qwen3", "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
     "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
     "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
     "{%- endif %}", "qwen2", None, "<|im_end|>", []),
    ("phi-4", "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + "
     "'<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
     "qwen2", None, "<|endoftext|>", ["<|im_sep|>"]),
    ("chatml", "{% for message in messages %}" + CHATML_TURNS, "qwen2", None, "<|im_end|>", []),
    # A fine-tune's own system message, and line ends in the template's text.
    ("chatml", ("{{ bos_token }}" + CHATML_FIRST + CHATML_TURNS).replace("@", "You are \"Boxed\": put it in \\\\boxed{}.")
     .replace("\\n", "\n"), "smollm2", "<|endoftext|>", "<|im_end|>", []),
    ("llama-3", "{% for message in messages %}{% set content = " + LLAMA3_TURN + " %}{% if loop.index0 == 0 %}"
     "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}" + LLAMA3_ANSWER,
     "llama3", "<|begin_of_text|>", "<|end_of_text|>", EOT),
    ("llama-3.1", SYSTEM_APART + "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = "
     "\"26 Jul 2024\" %}{%- endif %}{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}"
     "{{- \"Cutting Knowledge Date: December 2023\\n\" }}{{- \"Today Date: \" + date_string + \"\\n\\n\" }}"
     "{%- if system_message is defined %}{{- system_message | trim }}{%- endif %}{{- \"<|eot_id|>\" }}"
     "{%- for message in rest %}{{- " + LLAMA3_TURN + " }}{%- endfor %}" + LLAMA3_ANSWER,
     "llama3", "<|begin_of_text|>", "<|eot_id|>", EOT),
    ("llama-2", SYSTEM_APART + "{% for message in rest %}{% if loop.index0 == 0 and system_message is defined %}"
     "{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}"
     "{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
     "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}"
     "{% endif %}{% endfor %}", "llama2", *S, []),
    ("mistral-v1", mistral(" [INST] ", " [/INST]", " "), "llama2", *S, []),
    ("mistral-v0", "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
     "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ message['content'] + eos_token}}{% endif %}{% endfor %}",
     "mistral", *S, []),
    ("mistral-v3", mistral("[INST] ", "[/INST]", " "), "mistral", *S, ["[INST]", "[/INST]"]),
    ("mistral-v3-tekken", mistral("[INST]", "[/INST]", ""), "tekken", *S, ["[INST]", "[/INST]"]),
    ("zephyr", "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
     "{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n"
     "{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n"
     "{{ '<|assistant|>\n' + message['content'] + eos_token }}\n{% endif %}\n"
     "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}", "llama2", *S, []),
    ("gemma", "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- set head = messages[0]['content'] | trim + "
     "'\\n\\n' -%}{%- set rest = messages[1:] -%}{%- else -%}{%- set head = '' -%}{%- set rest = messages -%}{%- endif -%}"
     "{%- for message in rest -%}{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}"
     "{{ '<start_of_turn>' + role + '\\n' + (head if loop.first else '') }}{{ message['content'] | trim }}"
     "{{ '<end_of_turn>\\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<start_of_turn>model\\n' }}{%- endif -%}",
     "metaspace", *S, ["<start_of_turn>", "<end_of_turn>"]),
    ("phi-3", PHI3, "llama2", *S, ["<|user|>", "<|assistant|>", "<|end|>"]),
]
SYSTEM = {"role": "system", "content": "Answer in one line."}
USER = {"role": "user", "content": "\nPumps\nIt's 47 litres, in Größe 12. [S1]\nQuestion: How much?"}
SPACED = {"role": "user", "content": "How much?  \n"}
ASSISTANT = {"role": "assistant", "content": "47 litres"}
CONVERSATIONS = [[USER], [SYSTEM, SPACED], [USER, ASSISTANT, {"role": "user", "content": "Why?"}]]


def cases(row, template, raw, bos, eos, kind, tokens):
    """Lines of one row, rendered and encoded by transformers over the tokenizer `raw`."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = template
    for messages in CONVERSATIONS:
        if row == "mistral-v0" and messages[0]["role"] == "system":
            continue  # the template has no place for it
        options = {"add_generation_prompt": True, "enable_thinking": False}
        text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
        assert ids == raw.encode(text, add_special_tokens=False).ids, row
        yield {"row": row, "template": template, "bos": bos, "eos": eos, "messages": messages, "text": text,
               "kind": kind, "tokens": tokens, "ids": ids}


def fixture_cases(folder):
    for row, template, kind, bos, eos, tokens in ROWS:
        raw = Tokenizer.from_file(str(folder / kind / "tokenizer.json"))
        raw.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in tokens])
        yield from cases(row, template, raw, bos, eos, kind, tokens)


def gguf_cases(path):
    """The template and the vocabulary that a SmolLM2 GGUF file carries."""
    from gguf import GGUFReader
    from make_tokenizer_fixtures import from_gguf
    reader = GGUFReader(path)
    template = reader.fields["tokenizer.chat_template"].contents()
    yield from cases("smollm2", template, from_gguf(path), "<|im_start|>", "<|im_end|>", "smollm2_gguf", [])


def write(path, lines):
    text = [json.dumps(line) + "\n" for line in lines]
    path.write_text("".join(text))
    print(path, len(text), "cases")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizers", type=pathlib.Path, required=True)
    parser.add_argument("--gguf", help="a SmolLM2 GGUF file, for smollm2_gguf.jsonl")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder")
    args = parser.parse_args()
    write(args.out / "cases.jsonl", fixture_cases(args.tokenizers))
    if args.gguf:
        write(args.out / "smollm2_gguf.jsonl", gguf_cases(args.gguf))


if __name__ == "__main__":
    main()
