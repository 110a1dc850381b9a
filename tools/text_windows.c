/* SPDX-License-Identifier: Apache-2.0
 * text_windows.c - see text_windows.h.
 */
#include "tools/text_windows.h"

#include <stdlib.h>

#include "common/memory.h"
#include "tools/command.h"

/* Room for n more ids and the windows they make. */
static int
reserve(struct text_windows *w, size_t n, struct err *err)
{
    size_t windows = w->n + n; /* a window has at least one id that is not bos */
    int32_t *ids = mem_array_resize(w->ids, w->n_ids + 2 * n, sizeof(*ids));
    struct text_window *list;

    if (ids)
        w->ids = ids;
    list = mem_array_resize(w->list, windows, sizeof(*list));
    if (list)
        w->list = list;
    return ids && list ? 0 : err_set(err, CE_ENOMEM, "no memory for %zu tokens", n);
}

/* Cut ids [n] into windows. */
static void
cut(struct text_windows *w, const int32_t *ids, size_t n, int32_t bos)
{
    size_t done = 0;

    while (done < n) {
        struct text_window *next = &w->list[w->n++];

        *next = (struct text_window){ w->n_ids, 0 };
        if (bos != TOKENIZER_NONE)
            w->ids[next->at + (size_t)next->n++] = bos;
        while (next->n < w->length && done < n)
            w->ids[next->at + (size_t)next->n++] = ids[done++];
        w->n_ids += (size_t)next->n;
    }
}

int
text_windows_add(struct text_windows *w, const struct tokenizer *t, const char *path,
                 struct err *err)
{
    int32_t bos = tokenizer_add_bos(t) ? tokenizer_bos(t) : TOKENIZER_NONE, *ids = NULL;
    char *text = NULL;
    size_t len = 0, n = 0;
    int rc = command_read_text(path, TOKENIZER_MAX_TEXT, &text, &len, err);

    if (rc != 0 || len == 0)
        goto out;
    ids = mem_array_alloc(len, sizeof(*ids)); /* a token has at least one byte */
    if (!ids) {
        rc = err_set(err, CE_ENOMEM, "%s: no memory for its tokens", path);
        goto out;
    }
    if ((rc = tokenizer_encode(t, text, len, false, ids, len, &n, err)) ||
        (rc = reserve(w, n + 1, err)))
        err_prefix(err, "%s", path);
    else
        cut(w, ids, n, bos);
out:
    mem_free(ids);
    free(text);
    return rc;
}

void
text_windows_free(struct text_windows *w)
{
    mem_free(w->ids);
    mem_free(w->list);
    *w = (struct text_windows){ 0 };
}

void
text_windows_thin(struct text_windows *w, size_t rows)
{
    size_t keep = rows / (size_t)w->length;

    if (keep < 2)
        keep = 2;
    if (keep >= w->n)
        return;
    for (size_t i = 0; i < keep; i++)
        w->list[i] = w->list[i * w->n / keep];
    w->n = keep;
}

bool
text_windows_apart(size_t i, size_t n)
{
    size_t apart = n < 20 ? 1 : n / 10, shift = n / apart / 2;

    return (i + shift + 1) * apart / n > (i + shift) * apart / n;
}

size_t
text_windows_count(const struct text_windows *w, bool apart)
{
    size_t sum = 0;

    for (size_t i = 0; i < w->n; i++) {
        if (text_windows_apart(i, w->n) == apart)
            sum += (size_t)w->list[i].n;
    }
    return sum;
}
