/* SPDX-License-Identifier: Apache-2.0
 * gguf.h - GGUF files: reading by mmap with every size checked, and writing.
 *
 * Knows the container only: header, keys, tensor directory, bytes. What the
 * keys and tensors mean is model.c's affair. A file that opened is safe to
 * walk: every string, array and tensor lies inside the mapping, names are
 * unique, shapes multiply without overflow and match the type's block size, and no
 * two tensors share bytes. Limits: 2^20 keys and tensors, names of 1 to 256 bytes,
 * alignment a power of two from 8 to 65,536, arrays of depth one; a string may be as
 * long as the file. Versions 2 and 3, little endian.
 *
 * Thread: a `struct gguf` is immutable after gguf_open; any thread may read.
 */
#ifndef CE_ENGINE_GGUF_H
#define CE_ENGINE_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* Tensor element formats, numbered as in GGUF files. Only those named here
 * have a known block size; a file with another one is refused by name. */
enum gguf_type {
    GGUF_F32 = 0,
    GGUF_F16 = 1,
    GGUF_Q4_0 = 2,
    GGUF_Q4_1 = 3,
    GGUF_Q5_0 = 6,
    GGUF_Q5_1 = 7,
    GGUF_Q8_0 = 8,
    GGUF_Q2_K = 10,
    GGUF_Q3_K = 11,
    GGUF_Q4_K = 12,
    GGUF_Q5_K = 13,
    GGUF_Q6_K = 14,
    GGUF_I32 = 26,
    GGUF_BF16 = 30,
};

/* Values of metadata keys, numbered as in GGUF files. */
enum gguf_value_type {
    GGUF_VAL_U8 = 0,
    GGUF_VAL_I8 = 1,
    GGUF_VAL_U16 = 2,
    GGUF_VAL_I16 = 3,
    GGUF_VAL_U32 = 4,
    GGUF_VAL_I32 = 5,
    GGUF_VAL_F32 = 6,
    GGUF_VAL_BOOL = 7,
    GGUF_VAL_STRING = 8,
    GGUF_VAL_ARRAY = 9,
    GGUF_VAL_U64 = 10,
    GGUF_VAL_I64 = 11,
    GGUF_VAL_F64 = 12,
};

struct gguf_str {
    const char *data; /* inside the mapping; not NUL-terminated */
    size_t len;
};

struct gguf_tensor {
    const char *name; /* NUL-terminated, owned by the gguf; no NUL inside */
    uint32_t type;    /* enum gguf_type */
    int n_dims;       /* 1 to 4 */
    size_t ne[4];     /* ne[0] is the contiguous one (columns); unused ones are 1 */
    const void *data; /* inside the mapping, aligned to the file's alignment */
    size_t size_bytes;
};

struct gguf; /* opaque */

/* Map and check a file. On failure *err says "FILE: offset N: what is wrong"
 * (or names the key or tensor) and *out is NULL. */
int gguf_open(struct gguf **out, const char *path, struct err *err) CE_MUSTCHECK;

/* The same for bytes in memory (tests, fuzzing). `data` is borrowed until
 * gguf_close; `name` is used in error texts. */
int gguf_open_memory(struct gguf **out, const void *data, size_t size, const char *name,
                     struct err *err) CE_MUSTCHECK;
void gguf_close(struct gguf *g); /* accepts NULL */

const char *gguf_path(const struct gguf *g);
size_t gguf_size_bytes(const struct gguf *g);
const void *gguf_bytes(const struct gguf *g); /* the whole file, borrowed */

/* ---- keys ---- */
int gguf_n_keys(const struct gguf *g);
const char *gguf_key_name(const struct gguf *g, int i);
uint32_t gguf_key_type(const struct gguf *g, int i); /* enum gguf_value_type */

/* Index of a key, or -1. */
int gguf_find_key(const struct gguf *g, const char *name);

/* Typed reads by key name. CE_ENOTFOUND when absent (no err text is set, so
 * that optional keys are cheap); CE_EFORMAT with a text naming the key when the
 * stored type cannot hold the value asked for. Any integer type that fits
 * converts; F32 and F64 convert; bool is bool only. */
int gguf_get_u64(const struct gguf *g, const char *name, uint64_t *out, struct err *err);
int gguf_get_f64(const struct gguf *g, const char *name, double *out, struct err *err);
int gguf_get_bool(const struct gguf *g, const char *name, bool *out, struct err *err);
int gguf_get_str(const struct gguf *g, const char *name, struct gguf_str *out,
                 struct err *err);

/* Arrays. `elem_type` receives the element type, `n` the length. Elements are
 * read one at a time with the checked getters below. */
int gguf_get_array(const struct gguf *g, const char *name, uint32_t *elem_type, size_t *n,
                   struct err *err);
int gguf_array_str(const struct gguf *g, const char *name, size_t i,
                   struct gguf_str *out);
int gguf_array_f64(const struct gguf *g, const char *name, size_t i, double *out);
int gguf_array_i64(const struct gguf *g, const char *name, size_t i, int64_t *out);

/* ---- tensors ---- */
int gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, int i);
const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name);

/* Elements and bytes of one block of a type; 0 when unknown. Name such as
 * "Q4_1"; "type 77" style text is made by gguf_type_name for unknown ones. */
size_t gguf_block_elems(uint32_t type);
size_t gguf_block_bytes(uint32_t type);
const char *gguf_type_name(uint32_t type);

/* ---- writing ----
 * Keys and tensors are collected, then the file is written in one pass to
 * PATH.tmp and renamed, so that a reader never sees half a file. Tensor data is
 * borrowed until gguf_writer_finish. Errors are sticky and reported there. */
struct gguf_writer;

int gguf_writer_new(struct gguf_writer **out, struct err *err);
void gguf_writer_u32(struct gguf_writer *w, const char *key, uint32_t v);
void gguf_writer_f32(struct gguf_writer *w, const char *key, float v);
void gguf_writer_bool(struct gguf_writer *w, const char *key, bool v);
void gguf_writer_str(struct gguf_writer *w, const char *key, const char *v, size_t len);
void gguf_writer_str_array(struct gguf_writer *w, const char *key,
                           const struct gguf_str *v, size_t n);
void gguf_writer_i32_array(struct gguf_writer *w, const char *key, const int32_t *v,
                           size_t n);
void gguf_writer_f32_array(struct gguf_writer *w, const char *key, const float *v,
                           size_t n);
/* Copy key `i` of another file unchanged, whatever its type. */
void gguf_writer_copy_key(struct gguf_writer *w, const struct gguf *from, int i);
void gguf_writer_tensor(struct gguf_writer *w, const char *name, uint32_t type,
                        int n_dims, const size_t *ne, const void *data);
/* The same for data that is made while the file is written: `next` is called until the
 * pieces are as long as the tensor, in the order of the tensors. *piece: [*len] bytes,
 * at least one, borrowed until the next call; `at` is how many bytes came before. An
 * error of `next` ends gguf_writer_finish with it. */
typedef int gguf_piece_fn(void *arg, size_t at, const void **piece, size_t *len,
                          struct err *err);
void gguf_writer_tensor_pieces(struct gguf_writer *w, const char *name, uint32_t type,
                               int n_dims, const size_t *ne, gguf_piece_fn *next,
                               void *arg);
/* Bytes of the file as far as it was given. */
int gguf_writer_size(struct gguf_writer *w, uint64_t *bytes, struct err *err);
int gguf_writer_finish(struct gguf_writer *w, const char *path, struct err *err);
void gguf_writer_free(struct gguf_writer *w);

#endif
