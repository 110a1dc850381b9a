/* SPDX-License-Identifier: Apache-2.0
 * frame_text.c - a frame as one line of a debug log.
 *
 *     STATES epoch=1 seq=3 branch=0 id=0 pos=128 n=16 bytes=18496
 *
 * Walks the table of frame_fields.c. What the table marks secret is shown as
 * present, never as a value: session ids and secrets, bearer tokens, token ids.
 * Payloads are shown as their size.
 */
#include "common/frame.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "common/frame_fields.h"
#include "common/log.h"

struct line {
    char *out;
    size_t size;
    size_t len; /* always < size */
};

__attribute__((format(printf, 2, 3))) static void
put(struct line *line, const char *fmt, ...)
{
    size_t room = line->size - line->len;
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(line->out + line->len, room, fmt, ap);
    va_end(ap);
    if (n > 0)
        line->len += (size_t)n < room ? (size_t)n : room - 1;
}

static void
put_str(struct line *line, struct frame_str s)
{
    char quoted[4 * FRAME_MAX_TEXT + 8];

    put(line, "%s", log_quote(quoted, sizeof(quoted), s.data, s.len));
}

static void
put_field(struct line *line, const struct frame_field *field, const struct frame *f)
{
    const void *at = frame_field_in(f, field->offset);
    const uint8_t *bytes = at;

    put(line, " %s=", field->name);
    if (field->secret) {
        put(line, "*");
        return;
    }
    switch ((enum field_kind)field->kind) {
    case FIELD_U32:
        put(line, "%" PRIu32, *(const uint32_t *)at);
        break;
    case FIELD_U64:
        put(line, "%" PRIu64, *(const uint64_t *)at);
        break;
    case FIELD_F32:
        put(line, "%g", (double)*(const float *)at);
        break;
    case FIELD_BOOL:
        put(line, "%s", *(const bool *)at ? "yes" : "no");
        break;
    case FIELD_STR:
    case FIELD_BLOB:
        put_str(line, *(const struct frame_str *)at);
        break;
    case FIELD_BIN:
        for (int i = 0; i < 4; i++)
            put(line, "%02x", bytes[i]);
        break;
    case FIELD_STRS:
        for (int i = 0; i < *(const int *)at; i++) {
            put(line, "%s", i > 0 ? "," : "");
            put_str(line, ((const struct frame_str *)frame_field_in(f, field->items))[i]);
        }
        break;
    }
}

size_t
frame_text(const struct frame *f, char *out, size_t size)
{
    const struct frame_type_info *info = &frame_types[f->type];
    struct line line = { out, size, 0 };

    if (size == 0)
        return 0;
    put(&line, "%s", info->name);
    for (int i = 0; i < info->n_fields; i++)
        if (frame_field_present(&info->fields[i], f))
            put_field(&line, &info->fields[i], f);
    if (f->type == FRAME_STATES)
        put(&line, " bytes=%zu", f->u.states.rows_size);
    else if (f->type == FRAME_TOKEN)
        put(&line, " n_top=%d", f->u.token.n_top);
    else if (f->type == FRAME_GENERATE)
        put(&line, " n_ids=%zu", f->u.generate.n_ids);
    return line.len;
}
