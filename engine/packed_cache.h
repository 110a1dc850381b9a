/* SPDX-License-Identifier: Apache-2.0
 * packed_cache.h - packed weights in a file that processes map and share.
 *
 * Several agents and a server on one machine then hold one copy, and loading it needs no
 * packing. The file lies in a folder that only trusted users may write to:
 *
 *   0         struct head       who it is for, and a sum of the data
 *   +128      struct entry [n]  each matrix: name, format, shape, place; 128 bytes each
 *   ...       zeros up to a multiple of 64 KiB
 *   data      the matrices' tiles (packed.h), one after another, without gaps
 *
 * Numbers are as the machine has them: a file is not carried between machines. A reader
 * knows every byte before the data, because it knows the model; it compares them all. The
 * sum finds what disks, copies and crashes do to the data. It is no signature: who may
 * write the file may change the weights, which is why a file that others can write to is
 * refused. Writers make a file of their own and rename it, so that nobody sees half of
 * one and any number of them may write at once.
 *
 * Thread: the owner of the pool, outside a region.
 */
#ifndef CE_ENGINE_PACKED_CACHE_H
#define CE_ENGINE_PACKED_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/packed.h"
#include "engine/threads.h"

struct packed_matrix {
    const char *name; /* of the tensor */
    struct packed *w;
};

/* Which file, and all that it must hold. Everything is borrowed. */
struct packed_cache {
    const char *dir;
    const char *file;                     /* its name in `dir` */
    const uint8_t *id;                    /* [32]: equal for equal weights */
    const struct packed_matrix *matrices; /* [n_matrices], as they lie in the data */
    int n_matrices;
};

/* Map the file and point each matrix' data into it; *base and *bytes are what to munmap.
 * CE_ENOTFOUND when there is none; CE_EAUTH when it is not trusted, CE_EFORMAT when it is
 * not exactly what is wanted, CE_EIO, CE_ENOMEM, with a text that names the file. Then
 * nothing has changed. */
int packed_cache_map(const struct packed_cache *c, struct threads *pool, void **base,
                     size_t *bytes, struct err *err) CE_MUSTCHECK;

/* Write the file, or replace it, from the matrices: their data lies one after another
 * from `data` on. On failure nothing is left behind. */
int packed_cache_write(const struct packed_cache *c, const void *data,
                       struct threads *pool, struct err *err) CE_MUSTCHECK;

#endif
