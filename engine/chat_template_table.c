/* SPDX-License-Identifier: Apache-2.0
 * chat_template_table.c - the chat templates known, one row each.
 *
 * A row says what stands around a message and by which marks the template is
 * recognised in a file. Special tokens are written as their texts: encoding finds
 * them, in the row's own text alone.
 *
 * Templates that write today's date have the date that they fall back on, so that
 * the same conversation always gives the same ids.
 *
 * Used by: chat_template.c.
 */
#include "engine/chat_template.h"

#include <stddef.h>

#include "engine/chat_template_table.h"

/* ---- ChatML: <|im_start|>role ... <|im_end|> ---- */

#define CHATML_MARKS "<|im_start|>", "<|im_end|>"
#define CHATML                                                                           \
    .system = { "<|im_start|>system\n", "<|im_end|>\n" },                                \
    .user = { "<|im_start|>user\n", "<|im_end|>\n" },                                    \
    .assistant = { "<|im_start|>assistant\n", "<|im_end|>\n" },                          \
    .open_answer = "<|im_start|>assistant\n"

#define SMOLLM_SYSTEM                                                                    \
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
#define QWEN2_SYSTEM "You are a helpful assistant"
#define QWEN25_SYSTEM                                                                    \
    "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

/* ---- Llama 3 ---- */

#define LLAMA3_HEAD(role) "<|start_header_id|>" role "<|end_header_id|>\n\n"
#define LLAMA3_DATES      "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
#define LLAMA3                                                                           \
    .bos = "<|begin_of_text|>", .user = { LLAMA3_HEAD("user"), "<|eot_id|>" },           \
    .assistant = { LLAMA3_HEAD("assistant"), "<|eot_id|>" },                             \
    .open_answer = LLAMA3_HEAD("assistant"), .trims = true, .trims_answers = true

/* ---- [INST] ... [/INST] ---- */

#define NOT_MISTRAL "<<SYS>>", "[SYSTEM_PROMPT]", "<|im_start|>"

/* ---- DeepSeek R1 and V3; bars and underlines are not ASCII ---- */

#define BAR       "\357\275\234"
#define LOW       "\342\226\201"
#define DS_USER   "<" BAR "User" BAR ">"
#define DS_ANSWER "<" BAR "Assistant" BAR ">"
#define DEEPSEEK                                                                         \
    .bos = "<" BAR "begin" LOW "of" LOW "sentence" BAR ">", .user = { DS_USER, NULL },   \
    .assistant = { DS_ANSWER, "<" BAR "end" LOW "of" LOW "sentence" BAR ">" },           \
    .drops_thoughts = true

const struct chat_template chat_template_table[] = {
    { .name = "chatml-smollm",
      .marks = { CHATML_MARKS, SMOLLM_SYSTEM },
      CHATML,
      .default_system = SMOLLM_SYSTEM },
    { .name = "chatml-qwen2.5",
      .marks = { CHATML_MARKS, QWEN25_SYSTEM },
      CHATML,
      .default_system = QWEN25_SYSTEM },
    { .name = "chatml-qwen2",
      .marks = { CHATML_MARKS, QWEN2_SYSTEM "<|im_end|>" },
      CHATML,
      .default_system = QWEN2_SYSTEM },
    { .name = "chatml-qwen3",
      .marks = { CHATML_MARKS, "</think>" },
      .lacks = { "## Metadata", "!= 'system'" },
      CHATML,
      .drops_thoughts = true,
      .drops_lines = true },
    { .name = "chatml",
      .marks = { CHATML_MARKS },
      .lacks = { "## Metadata", "!= 'system'" }, /* a default of its own */
      CHATML },
    { .name = "llama3.1",
      .marks = { "<|start_header_id|>", "<|eot_id|>", "Cutting Knowledge Date" },
      LLAMA3,
      .system = { LLAMA3_HEAD("system") LLAMA3_DATES, "<|eot_id|>" },
      .default_system = "" },
    { .name = "llama3",
      .marks = { "<|start_header_id|>", "<|eot_id|>" },
      LLAMA3,
      .system = { LLAMA3_HEAD("system"), "<|eot_id|>" } },
    { .name = "llama2",
      .marks = { "[INST]", "<<SYS>>", "bos_token + " },
      .lacks = { "<|im_start|>" },
      .system = { "<<SYS>>\n", "\n<</SYS>>\n\n" },
      .system_goes = SYSTEM_FIRST_USER,
      .user = { "<s>[INST] ", " [/INST]" },
      .assistant = { " ", " </s>" },
      .trims = true,
      .trims_answers = true },
    { .name = "mistral-v1",
      .marks = { " [INST] ", " [/INST]" },
      .lacks = { NOT_MISTRAL },
      .bos = "<s>",
      .system = { NULL, "\n\n" },
      .system_goes = SYSTEM_FIRST_USER,
      .user = { " [INST] ", " [/INST]" },
      .assistant = { " ", "</s>" } },
    { .name = "mistral-7b-v0.1",
      .marks = { "[INST] ", " [/INST]", "eos_token + ' '" },
      .lacks = { NOT_MISTRAL },
      .bos = "<s>",
      .system = { NULL, "\n\n" },
      .system_goes = SYSTEM_FIRST_USER,
      .user = { "[INST] ", " [/INST]" },
      .assistant = { NULL, "</s> " } },
    { .name = "mistral-7b-v0.2",
      .marks = { "[INST] ", " [/INST]" },
      .lacks = { NOT_MISTRAL },
      .bos = "<s>",
      .system = { NULL, "\n\n" },
      .system_goes = SYSTEM_FIRST_USER,
      .user = { "[INST] ", " [/INST]" },
      .assistant = { NULL, "</s>" } },
    { .name = "mistral-v3",
      .marks = { "[INST] ", "[/INST]" },
      .lacks = { NOT_MISTRAL },
      .bos = "<s>",
      .system = { NULL, "\n\n" },
      .system_goes = SYSTEM_LAST_USER,
      .user = { "[INST] ", "[/INST]" },
      .assistant = { " ", "</s>" },
      .trims_answers = true },
    { .name = "mistral-tekken",
      .marks = { "[INST]", "[/INST]" },
      .lacks = { NOT_MISTRAL },
      .bos = "<s>",
      .system = { NULL, "\n\n" },
      .system_goes = SYSTEM_LAST_USER,
      .user = { "[INST]", "[/INST]" },
      .assistant = { NULL, "</s>" } },
    { .name = "mistral-v7",
      .marks = { "[SYSTEM_PROMPT] ", "[INST] " },
      .lacks = { "default_system_message" },
      .bos = "<s>",
      .system = { "[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]" },
      .user = { "[INST] ", "[/INST]" },
      .assistant = { " ", "</s>" } },
    { .name = "mistral-v7-tekken",
      .marks = { "[SYSTEM_PROMPT]", "[INST]" },
      .lacks = { "default_system_message", "[INST] " },
      .bos = "<s>",
      .system = { "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]" },
      .user = { "[INST]", "[/INST]" },
      .assistant = { NULL, "</s>" } },
    { .name = "phi-3",
      .marks = { "<|user|>", "<|assistant|>", "<|end|>" },
      .lacks = { "<|im_start|>" },
      .system = { "<|system|>\n", "<|end|>\n" },
      .user = { "<|user|>\n", "<|end|>\n" },
      .assistant = { "<|assistant|>\n", "<|end|>\n" },
      .open_answer = "<|assistant|>\n" },
    { .name = "zephyr",
      .marks = { "<|user|>", "<|assistant|>", "eos_token" },
      .lacks = { "<|im_start|>", "<|end|>", "[gMASK]" },
      .system = { "<|system|>\n", "</s>\n" },
      .user = { "<|user|>\n", "</s>\n" },
      .assistant = { "<|assistant|>\n", "</s>\n" },
      .open_answer = "<|assistant|>\n" },
    { .name = "deepseek-r1",
      .marks = { DS_USER, DS_ANSWER "<think>" },
      DEEPSEEK,
      .open_answer = DS_ANSWER "<think>\n" },
    { .name = "deepseek-v3",
      .marks = { DS_USER, DS_ANSWER },
      DEEPSEEK,
      .open_answer = DS_ANSWER },
    { .name = NULL },
};

const char *
chat_template_names(void)
{
    return "chatml, chatml-smollm, chatml-qwen2, chatml-qwen2.5, chatml-qwen3, llama2, "
           "llama3, llama3.1, mistral-v1, mistral-v3, mistral-tekken, mistral-v7, "
           "mistral-v7-tekken, mistral-7b-v0.1, mistral-7b-v0.2, phi-3, zephyr, "
           "deepseek-r1, deepseek-v3";
}
