/* SPDX-License-Identifier: Apache-2.0
 * fuzz_gguf.c - any bytes as a GGUF file: either refused with a text, or every key,
 * element and tensor byte can be read; then as a model, from its keys to logits.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/log.h"
#include "engine/gguf.h"
#include "tests/unit/model_walk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Keeps reads from being optimised away. */
static volatile unsigned sink;

static void
read_str(struct gguf_str s)
{
    if (s.len > 0)
        sink += (unsigned char)s.data[0] + (unsigned char)s.data[s.len - 1];
}

static void
read_array(const struct gguf *g, const char *name, size_t n)
{
    struct gguf_str s;
    int64_t v;
    double f;
    size_t i;

    for (i = 0; i <= n; i++) {
        if (gguf_array_str(g, name, i, &s) == 0)
            read_str(s);
        if (gguf_array_i64(g, name, i, &v) == 0)
            sink += (unsigned)v;
        if (gguf_array_f64(g, name, i, &f) == 0)
            sink++;
        if (i > 1000)
            i += n / 100;
    }
}

static void
read_key(const struct gguf *g, int i)
{
    const char *name = gguf_key_name(g, i);
    struct gguf_str s;
    struct err err;
    uint32_t elem;
    uint64_t u;
    double f;
    size_t n;
    bool b;

    if (gguf_find_key(g, name) != i)
        abort();
    sink += (unsigned)gguf_get_u64(g, name, &u, &err) +
            (unsigned)gguf_get_f64(g, name, &f, &err) +
            (unsigned)gguf_get_bool(g, name, &b, &err);
    if (gguf_get_str(g, name, &s, &err) == 0)
        read_str(s);
    if (gguf_get_array(g, name, &elem, &n, &err) == 0)
        read_array(g, name, n);
}

/* As a file, in memory: models are opened by name. */
static void
as_model(const uint8_t *data, size_t size)
{
    static int fd = -1;
    static char path[40];
    struct walk w = { 0 };

    if (fd < 0) {
        fd = memfd_create("fuzz_gguf", MFD_CLOEXEC);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        log_set_level(LOG_LEVEL_ERROR);
    }
    walk_must(fd >= 0 && ftruncate(fd, 0) == 0 &&
                  pwrite(fd, data, size, 0) == (ssize_t)size,
              "no file in memory");
    walk_model(path, size % 2 == 1, &w);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct gguf_tensor *t;
    struct err err = { 0 };
    struct gguf *g;
    size_t k;
    int i;

    if (gguf_open_memory(&g, data, size, "fuzz", &err) != 0) {
        if (err.code == 0 || err.text[0] == '\0')
            abort();
        return 0;
    }
    for (i = 0; i < gguf_n_keys(g); i++)
        read_key(g, i);
    for (i = 0; i < gguf_n_tensors(g); i++) {
        t = gguf_tensor_at(g, i);
        if (gguf_find_tensor(g, t->name) != t)
            abort();
        for (k = 0; k < t->size_bytes; k++)
            sink += ((const uint8_t *)t->data)[k];
    }
    gguf_close(g);
    as_model(data, size);
    return 0;
}
