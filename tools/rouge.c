/* SPDX-License-Identifier: Apache-2.0
 * rouge.c - see rouge.h.
 */
#include "tools/rouge.h"

#include <stdbool.h>
#include <string.h>

#include <utf8proc.h>

#include "common/memory.h"

#define FNV_START 14695981039346656037ull
#define FNV_PRIME 1099511628211ull

static bool
is_word_char(utf8proc_int32_t c)
{
    utf8proc_category_t k = utf8proc_category(c);

    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) ||
           k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_MN ||
           k == UTF8PROC_CATEGORY_MC;
}

static unsigned long long
mix(unsigned long long hash, utf8proc_int32_t c)
{
    for (int i = 0; i < 4; i++)
        hash = (hash ^ (((unsigned)c >> (8 * i)) & 0xff)) * FNV_PRIME;
    return hash;
}

int
rouge_cut(struct rouge_text *out, const char *text, size_t len, struct err *err)
{
    unsigned long long word = FNV_START;
    bool inside = false;

    *out = (struct rouge_text){ .whole = FNV_START };
    out->words = mem_array_alloc(len / 2 + 1, sizeof(*out->words));
    if (!out->words)
        return err_set(err, CE_ENOMEM, "no memory for the words of %zu bytes", len);
    for (size_t i = 0; i < len;) {
        utf8proc_int32_t c = -1;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)text + i,
                                              (utf8proc_ssize_t)(len - i), &c);
        bool more = n > 0 && is_word_char(c);

        if (more)
            word = mix(word, utf8proc_tolower(c));
        else if (inside)
            out->words[out->n++] = word;
        if (!more)
            word = FNV_START;
        inside = more;
        out->whole = mix(out->whole, n > 0 ? c : (unsigned char)text[i] + 0x200000);
        i += n > 0 ? (size_t)n : 1;
    }
    if (inside)
        out->words[out->n++] = word;
    return 0;
}

void
rouge_free(struct rouge_text *t)
{
    mem_free(t->words);
    *t = (struct rouge_text){ 0 };
}

/* One row of the table at a time; row[j]: of a's words so far and b's first j. */
static size_t
common(size_t *row, const struct rouge_text *a, const struct rouge_text *b)
{
    for (size_t j = 0; j <= b->n; j++)
        row[j] = 0;
    for (size_t i = 0; i < a->n; i++) {
        size_t diagonal = 0;

        for (size_t j = 1; j <= b->n; j++) {
            size_t above = row[j];

            if (a->words[i] == b->words[j - 1])
                row[j] = diagonal + 1;
            else if (row[j - 1] > above)
                row[j] = row[j - 1];
            diagonal = above;
        }
    }
    return row[b->n];
}

int
rouge_l(double *f1, const struct rouge_text *a, const struct rouge_text *b,
        struct err *err)
{
    size_t *row;

    if (a->n == 0 || b->n == 0) {
        *f1 = a->n == b->n && a->whole == b->whole;
        return 0;
    }
    row = mem_array_alloc(b->n + 1, sizeof(*row));
    if (!row)
        return err_set(err, CE_ENOMEM, "no memory for %zu words", b->n);
    *f1 = 2 * (double)common(row, a, b) / (double)(a->n + b->n);
    mem_free(row);
    return 0;
}
