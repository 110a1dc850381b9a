/* SPDX-License-Identifier: Apache-2.0
 * tokenizer_rules.c - how each family of byte-level vocabularies cuts words.
 *
 * The expressions are those the tokenizers were trained with, written for PCRE2.
 * Three details decide about equality and time:
 *   - White space is Unicode's White_Space, spelt out: PCRE2's \s counts U+180E,
 *     which Unicode no longer does.
 *   - "$" is the end of the piece and nothing else, so it is written \z.
 *   - Nothing may scan the same run from each of its places again. An expression
 *     that fails at the end of a run (white space up to \z) may therefore start at
 *     the run's beginning only, and a repeated group never gives back (++), which
 *     also keeps PCRE2 from storing every round.
 *
 * Models whose cutting cannot be said in expressions that keep to this (digits in
 * threes from the right, white space in powers of two) have no row.
 *
 * Used by: tokenizer_split.c. Thread: constant data.
 */
#include "engine/tokenizer_rules.h"

#include <stdio.h>
#include <string.h>

/* White_Space, inside a class. */
#define WS                                                                               \
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}"                             \
    "\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

#define SPACES "[" WS "]+(?![^" WS "])|[" WS "]+"

#define GPT2                                                                             \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|" SPACES

#define SHORTENED "(?i:'s|'t|'re|'ve|'m|'ll|'d)" /* I'm, you're, ... */
#define LETTERS   "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define MARKS     " ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|"
#define LINES     "[" WS "]*[\\r\\n]+|"

#define MODERN(digits) SHORTENED "|" LETTERS digits "|" MARKS LINES SPACES

/* Words end where small letters are followed by capitals. */
#define UPPER "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
#define CASED(tail, digits)                                                              \
    "[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]*[" LOWER "]+" tail                                \
    "|[^\\r\\n\\p{L}\\p{N}]?[" UPPER "]+[" LOWER "]*" tail "|" digits "| ?[^" WS         \
    "\\p{L}\\p{N}]+[\\r\\n/]*|" LINES SPACES

#define PUNCTUATION(more) "[\\p{P}$+<=>^~|" more "]+"
#define THREE_DIGITS      "[0-9][0-9][0-9]"

/* Everything up to white space and full stops of several scripts. */
#define CLAUSES                                                                          \
    " ?[^(" WS "|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{0964}\\x{06d4}"             \
    "\\x{060c})]+"

/* Letters with case, as that tokenizer lists them. */
#define DEEPSEEK_CASED                                                                   \
    "A-Za-z\\xb5\\xc0-\\xd6\\xd8-\\xf6\\xf8-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}"  \
    "\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}"        \
    "\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}"                \
    "\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}"             \
    "\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}"       \
    "\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}"       \
    "\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}"       \
    "\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}"                  \
    "\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}"                 \
    "\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}"       \
    "\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}"                  \
    "\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}"                  \
    "\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}"        \
    "\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}"        \
    "\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}"        \
    "\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}"       \
    "\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}"     \
    "\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}"                    \
    "\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"

#define DEEPSEEK_MARKS                                                                   \
    "!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}"
#define DEEPSEEK_CJK "[\\x{800}-\\x{9fa5}\\x{ac00}-\\x{d7ff}]+"
#define HAN_KANA     "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{30ff}]+"
#define LAST_SPACES  "(?<![" WS "])[" WS "]++\\z"

#define DEEPSEEK3                                                                        \
    "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"             \
    " ?[\\p{P}\\p{S}]+[\\r\\n]*|" LINES SPACES

#define QWEN35                                                                           \
    SHORTENED "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^" WS                    \
              "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" LINES SPACES

#define EXAONE_MOE                                                                       \
    SHORTENED "|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*+(?: \\p{L}\\p{M}*+)*+)++|\\p{N}|" \
              " ?[^" WS "\\p{L}\\p{N}]+[\\r\\n/]?|[" WS "]*[\\r\\n]|" SPACES

#define BAILING SHORTENED "|" LETTERS "\\p{N}|" MARKS "[" WS "]*[\\r\\n]|" SPACES

#define SEED SHORTENED "|" LETTERS "\\p{N}| ?[^" WS "\\p{L}\\p{N}\\r\\n]+|" LINES SPACES

static const struct split_rule rules[] = {
    { { "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b",
        "mellum2" },
      { "\\p{N}", GPT2 },
      false,
      false },
    { { "gpt-2", "gpt2", "mpt", "olmo", "jais", "phi-2", "trillion", "mellum", "exaone4",
        "gigachat", "a.x-4.0" },
      { GPT2 },
      false,
      false },
    { { "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0",
        "lfm2" },
      { MODERN("\\p{N}{1,3}") },
      true,
      true },
    { { "qwen2", "stablelm2", "deepseek-r1-qwen", "megrez", "hunyuan", "solar-open",
        "grok-2", "kormo" },
      { MODERN("\\p{N}") },
      false,
      false },
    { { "dbrx", "smaug-bpe", "glm4", "chatglm-bpe" },
      { MODERN("\\p{N}{1,3}") },
      false,
      false },
    { { "tekken" }, { CASED("", "\\p{N}") }, true, true },
    { { "gpt-4o", "llama4", "kanana2", "minimax-m2" },
      { CASED(SHORTENED "?", "\\p{N}{1,3}") },
      false,
      false },
    { { "falcon" }, { PUNCTUATION("`"), GPT2, THREE_DIGITS }, false, false },
    { { "deepseek-llm" },
      { "[\\r\\n]", "[" WS "]?[" DEEPSEEK_CASED "]+", "[" WS "]?[" DEEPSEEK_MARKS "]+",
        LAST_SPACES, DEEPSEEK_CJK, "\\p{N}+" },
      false,
      false },
    { { "deepseek-coder" },
      { "[\\r\\n]", "[" WS "]?\\p{L}+", "[" WS "]?\\p{P}+", DEEPSEEK_CJK, "\\p{N}" },
      false,
      false },
    { { "deepseek-v3", "hunyuan-dense", "joyai-llm" },
      { "\\p{N}{1,3}", HAN_KANA, DEEPSEEK3 },
      false,
      false },
    { { "poro-chat", "bloom", "gpt3-finnish" }, { CLAUSES }, false, false },
    { { "viking" }, { CLAUSES, "\\p{N}" }, false, false },
    { { "qwen35" }, { QWEN35 }, false, false },
    { { "exaone-moe" }, { EXAONE_MOE }, false, false },
    { { "bailingmoe", "bailingmoe2", "llada-moe" }, { BAILING }, false, false },
    { { "seed-coder" }, { SEED }, false, false },
    { { "minicpm5" }, { "\\p{N}{1,3}", MODERN("\\p{N}+") }, true, false },
    { { "default" }, { PUNCTUATION(""), GPT2, "\\p{N}+", THREE_DIGITS }, false, false },
};

#define N_RULES (sizeof(rules) / sizeof(rules[0]))

const struct split_rule *
split_rule_find(const char *name, size_t len, const char **as)
{
    size_t i, k;

    for (i = 0; i < N_RULES; i++)
        for (k = 0; k < SPLIT_MAX_NAMES && rules[i].names[k] != NULL; k++)
            if (strlen(rules[i].names[k]) == len &&
                memcmp(rules[i].names[k], name, len) == 0) {
                *as = rules[i].names[k];
                return &rules[i];
            }
    return NULL;
}

void
split_rule_names(char *out, size_t cap)
{
    size_t i, k, n = 0, need;

    out[0] = '\0';
    for (i = 0; i < N_RULES; i++)
        for (k = 0; k < SPLIT_MAX_NAMES && rules[i].names[k] != NULL; k++) {
            need = strlen(rules[i].names[k]) + 2;
            if (n + need + 4 > cap) {
                snprintf(out + n, cap - n, "...");
                return;
            }
            n += (size_t)snprintf(out + n, cap - n, "%s%s", n > 0 ? ", " : "",
                                  rules[i].names[k]);
        }
}
