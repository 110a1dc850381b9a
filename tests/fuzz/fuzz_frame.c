/* SPDX-License-Identifier: Apache-2.0
 * fuzz_frame.c - any bytes as a connection's input: a row of frames.
 *
 * Checks more than "does not crash": what is decoded can be encoded, and the
 * encoded frame decodes to one that encodes to the same bytes. STATES rows go
 * through both codecs.
 */
#include <stdlib.h>
#include <string.h>

#include "common/frame.h"
#include "common/states.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
check_return(const struct frame *f)
{
    struct bytebuf once, twice;
    struct frame_header h;
    struct frame back;

    bytebuf_init(&once, (size_t)1 << 23);
    bytebuf_init(&twice, (size_t)1 << 23);
    frame_encode(&once, f);
    if (frame_header_decode(&h, bytebuf_data(&once), bytebuf_len(&once), NULL) != 0 ||
        frame_body_size(&h) + FRAME_HEADER_SIZE != bytebuf_len(&once) ||
        frame_decode(&back, &h, bytebuf_data(&once) + FRAME_HEADER_SIZE, NULL) != 0)
        abort();
    frame_encode(&twice, &back);
    if (bytebuf_len(&once) != bytebuf_len(&twice) ||
        memcmp(bytebuf_data(&once), bytebuf_data(&twice), bytebuf_len(&once)) != 0)
        abort();
    bytebuf_fini(&once);
    bytebuf_fini(&twice);
}

static void
check_states(const struct frame_states *s)
{
    static float rows[FRAME_MAX_STATES];
    size_t row = s->rows_size / s->n;
    int rc = 0;

    if (row % 4 == 0)
        rc |= states_decode(STATES_F32, s->rows, s->n, row / 4, rows);
    if (row >= 6 && row % 2 == 0)
        rc |= states_decode(STATES_F16, s->rows, s->n, (row - 4) / 2, rows);
    (void)rc; /* both answers are fine */
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct frame_header h;
    char text[300];

    while (frame_header_decode(&h, data, size, NULL) == 0) {
        struct err err;
        struct frame f;

        for (int place = 0; place <= FRAME_AT_AGENT_UPLOAD; place++)
            if (frame_allowed(&h, (enum frame_place)place, &err) != 0 &&
                err.text[0] == '\0')
                abort();
        if (size < FRAME_HEADER_SIZE + frame_body_size(&h))
            break;
        if (frame_decode(&f, &h, data + FRAME_HEADER_SIZE, &err) != 0)
            break;
        frame_text(&f, text, sizeof(text));
        if (f.type == FRAME_STATES)
            check_states(&f.u.states);
        check_return(&f);
        data += FRAME_HEADER_SIZE + frame_body_size(&h);
        size -= FRAME_HEADER_SIZE + frame_body_size(&h);
    }
    return 0;
}
