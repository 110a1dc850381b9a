/* SPDX-License-Identifier: Apache-2.0
 * gguf_internal.h - what gguf.c parses and gguf_keys.c reads.
 *
 * Included by those two, gguf_write.c and nobody else.
 */
#ifndef CE_ENGINE_GGUF_INTERNAL_H
#define CE_ENGINE_GGUF_INTERNAL_H

#include "engine/gguf.h"

/* One metadata pair. `at` is the offset of the value's first byte (for an
 * array: of its element type), `end` the offset behind its last. */
struct gguf_key {
    char *name;         /* owned, NUL-terminated */
    uint32_t type;      /* enum gguf_value_type */
    uint32_t elem_type; /* arrays: the elements' type; never an array */
    size_t n;           /* arrays: number of elements */
    size_t data_at;     /* arrays: offset of element 0; else equal to `at` */
    size_t at, end;
    size_t *str_at; /* arrays of strings: [n] offsets of each length; owned */
};

struct gguf {
    char *path;
    const unsigned char *base; /* [size] */
    size_t size;
    void *map; /* what munmap gets; NULL when the bytes are borrowed */
    struct gguf_key *keys;
    int n_keys;
    struct gguf_tensor *tensors;
    int n_tensors;
    int *keys_sorted;    /* [n_keys] indices in strcmp order of names */
    int *tensors_sorted; /* [n_tensors] the same */
};

/* Bytes of one value of a fixed-size type; 0 for strings, arrays, unknown. */
size_t gguf_value_bytes(uint32_t value_type);

#endif
