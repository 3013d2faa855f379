/* The rows of chat templates, as the models' publishers write them. A template that another resembles stands behind it.
 * Where a template refuses system messages (mistral-v0, gemma) or leaves open where they stand, they are folded into
 * the first user turn with an empty line behind, as the publishers' later templates do. */
#include "data/chat.h"

#define CHATML                                                       \
    .system = {"<|im_start|>system\n", "<|im_end|>\n"},              \
    .user = {"<|im_start|>user\n", "<|im_end|>\n"},                  \
    .assistant = {"<|im_start|>assistant\n", "<|im_end|>\n"},        \
    .answer = "<|im_start|>assistant\n", .stops = {"<|im_end|>"}, .tokens = {"<|im_start|>"}

#define LLAMA3                                                                          \
    .user = {"<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"},             \
    .assistant = {"<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"},   \
    .answer = "<|start_header_id|>assistant<|end_header_id|>\n\n", .trims = true, .bos = true, \
    .stops = {"<|eot_id|>"}, .tokens = {"<|start_header_id|>", "<|end_header_id|>"}

#define MISTRAL .system = {"", "\n\n"}, .answer = "", .folds_system = true, .bos = true

const qs_chat_row qs_chat_rows[] = {
    {.name = "smollm2", .text = "ChatML with SmolLM2's system message", CHATML,
     .system_default = "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
     .marks = {"<|im_start|>", "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>"}},
    {.name = "qwen2.5", .text = "ChatML with Qwen2.5's system message", CHATML,
     .system_default = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
     .marks = {"<|im_start|>", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>"}},
    {.name = "qwen2", .text = "ChatML with Qwen2's system message", CHATML,
     .system_default = "You are a helpful assistant.",
     .marks = {"<|im_start|>system\nYou are a helpful assistant.<|im_end|>"}},
    /* A text of thoughts would be all of an answer, which is one line. */
    {.name = "qwen3", .text = "ChatML as Qwen3 writes it when it is not to think",
     .system = {"<|im_start|>system\n", "<|im_end|>\n"},
     .user = {"<|im_start|>user\n", "<|im_end|>\n"},
     .assistant = {"<|im_start|>assistant\n", "<|im_end|>\n"},
     .answer = "<|im_start|>assistant\n<think>\n\n</think>\n\n",
     .stops = {"<|im_end|>"}, .tokens = {"<|im_start|>"},
     .marks = {"<|im_start|>", "enable_thinking", "<think>\n\n</think>"}, .without = {"reasoning_mode"}},
    {.name = "phi-4", .text = "ChatML with <|im_sep|> behind the role",
     .system = {"<|im_start|>system<|im_sep|>", "<|im_end|>"},
     .user = {"<|im_start|>user<|im_sep|>", "<|im_end|>"},
     .assistant = {"<|im_start|>assistant<|im_sep|>", "<|im_end|>"},
     .answer = "<|im_start|>assistant<|im_sep|>",
     .stops = {"<|im_end|>"}, .tokens = {"<|im_start|>", "<|im_sep|>"},
     .marks = {"<|im_start|>", "<|im_sep|>"}},
    {.name = "chatml", .text = "<|im_start|> and <|im_end|> around each turn, the checkpoint's own system message",
     CHATML, .marks = {"<|im_start|>", "<|im_end|>"}, .without = {"reasoning_mode", "enable_thinking", "<think>"}},
    {.name = "llama-3.1", .text = "Llama 3.1 to 3.3, dated 26 Jul 2024 as in their templates",
     .system = {"<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
                "Today Date: 26 Jul 2024\n\n", "<|eot_id|>"},
     .system_default = "", LLAMA3,
     .marks = {"<|start_header_id|>", "<|eot_id|>", "Cutting Knowledge Date: December 2023\n"}},
    {.name = "llama-3", .text = "Llama 3",
     .system = {"<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"}, LLAMA3,
     .marks = {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}, .without = {"Today Date", "<think>"}},
    {.name = "llama-2", .text = "[INST] and <<SYS>>", .system = {"<<SYS>>\n", "\n<</SYS>>\n\n"},
     .user = {"[INST] ", " [/INST]"}, .assistant = {" ", " " QS_CHAT_EOS}, .answer = "", .folds_system = true,
     .trims = true, .bos = true, .bos_again = true, .marks = {"[INST]", "<<SYS>>"}},
    {.name = "mistral-v1", .text = "[INST] with blanks on both sides (Mistral 7B v0.1 and v0.2, Mixtral)", MISTRAL,
     .user = {" [INST] ", " [/INST]"}, .assistant = {" ", QS_CHAT_EOS},
     .marks = {"' [INST] '", "' [/INST]'"}, .without = {"SYSTEM_PROMPT", "<<SYS>>"}},
    {.name = "mistral-v0", .text = "[INST] with blanks inside (Mistral 7B, first templates)", MISTRAL,
     .user = {"[INST] ", " [/INST]"}, .assistant = {"", QS_CHAT_EOS},
     .marks = {"'[INST] '", "' [/INST]'"}, .without = {"SYSTEM_PROMPT", "<<SYS>>"}},
    {.name = "mistral-v3", .text = "[INST] with a blank behind it alone (Mistral 7B v0.3)", MISTRAL,
     .user = {"[INST] ", "[/INST]"}, .assistant = {" ", QS_CHAT_EOS}, .tokens = {"[INST]", "[/INST]"},
     .marks = {"'[INST] '", "'[/INST]'"}, .without = {"SYSTEM_PROMPT", "<<SYS>>"}},
    {.name = "mistral-v3-tekken", .text = "[INST] without blanks (Mistral Nemo)", MISTRAL,
     .user = {"[INST]", "[/INST]"}, .assistant = {"", QS_CHAT_EOS}, .tokens = {"[INST]", "[/INST]"},
     .marks = {"'[INST]'", "'[/INST]'"}, .without = {"SYSTEM_PROMPT", "<<SYS>>"}},
    {.name = "zephyr", .text = "<|user|> on a line of its own, EOS behind each turn (Zephyr, TinyLlama)",
     .system = {"<|system|>\n", QS_CHAT_EOS "\n"}, .user = {"<|user|>\n", QS_CHAT_EOS "\n"},
     .assistant = {"<|assistant|>\n", QS_CHAT_EOS "\n"}, .answer = "<|assistant|>\n",
     .marks = {"'<|user|>\n' + message['content'] + eos_token", "<|assistant|>"}},
    {.name = "gemma", .text = "<start_of_turn> and <end_of_turn>", .system = {"", "\n\n"},
     .user = {"<start_of_turn>user\n", "<end_of_turn>\n"}, .assistant = {"<start_of_turn>model\n", "<end_of_turn>\n"},
     .answer = "<start_of_turn>model\n", .folds_system = true, .trims = true, .bos = true,
     .stops = {"<end_of_turn>"}, .tokens = {"<start_of_turn>"}, .marks = {"<start_of_turn>", "<end_of_turn>"}},
    {.name = "phi-3", .text = "<|user|> on a line of its own, <|end|> behind each turn (Phi-3, Phi-3.5)",
     .system = {"<|system|>\n", "<|end|>\n"}, .user = {"<|user|>\n", "<|end|>\n"},
     .assistant = {"<|assistant|>\n", "<|end|>\n"}, .answer = "<|assistant|>\n",
     .stops = {"<|end|>"}, .tokens = {"<|user|>", "<|assistant|>"},
     .marks = {"'<|user|>", "<|end|>", "<|assistant|>"}},
    {0},
};
