/* SPDX-License-Identifier: Apache-2.0
 * frame_fields.h - doc/PROTOCOL.md section 4 as a table. For frame.c and
 * frame_text.c only.
 */
#ifndef CE_COMMON_FRAME_FIELDS_H
#define CE_COMMON_FRAME_FIELDS_H

#include "common/frame.h"

#define FRAME_N_TYPES (FRAME_BYE + 1)

enum field_kind {
    FIELD_U32,  /* uint32_t */
    FIELD_U64,  /* uint64_t */
    FIELD_F32,  /* float, finite; float32 or float64 on the wire */
    FIELD_BOOL, /* bool */
    FIELD_STR,  /* struct frame_str; a string */
    FIELD_BLOB, /* struct frame_str; a binary of any length */
    FIELD_BIN,  /* uint8_t[max]; a binary of exactly that length */
    FIELD_STRS, /* the int n_codecs, with struct frame_str codecs[] at `items` */
};

/* One key of a map. Offsets are in struct frame. */
struct frame_field {
    const char *name;
    uint8_t key;
    uint8_t kind;
    bool optional;
    bool secret;     /* never shown in logs */
    bool bool_value; /* a FIELD_BOOL's value when absent */
    size_t offset;
    size_t has;      /* bool that says whether an optional one is there; 0: it is
                      * there when its value is not the default */
    size_t items;    /* FIELD_STRS */
    double min, max; /* of numbers; bytes of strings and binaries; both included */
};

struct frame_type_info {
    const char *name; /* NULL: no such type */
    const struct frame_field *fields;
    int n_fields;
    uint32_t max_payload;
};

extern const struct frame_type_info frame_types[FRAME_N_TYPES];

/* Is the field there when f is written? */
bool frame_field_present(const struct frame_field *field, const struct frame *f);

static inline void *
frame_field_at(struct frame *f, size_t offset)
{
    return (char *)f + offset;
}

static inline const void *
frame_field_in(const struct frame *f, size_t offset)
{
    return (const char *)f + offset;
}

#endif
