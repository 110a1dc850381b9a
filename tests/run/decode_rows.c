/* SPDX-License-Identifier: Apache-2.0
 * decode_rows.c - decodes weights for quant_reference.py.
 *
 *   decode_rows TYPE N
 *
 * reads rows of N elements of a GGUF type (its number) from the standard input and
 * writes them as float32, in this machine's byte order.
 */
#include <stdio.h>
#include <stdlib.h>

#include "engine/quant.h"

int
main(int argc, char **argv)
{
    uint32_t type = argc == 3 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0;
    size_t n = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
    size_t bytes = quant_row_bytes(type, n), got;
    void *row = malloc(bytes + 1);
    float *out = malloc((n + 1) * sizeof(*out));

    if (bytes == 0 || !row || !out) {
        fprintf(stderr, "usage: decode_rows TYPE N\n");
        return 2;
    }
    while ((got = fread(row, 1, bytes, stdin)) == bytes)
        if (quant_dequantise_row(type, row, out, n) != 0 ||
            fwrite(out, sizeof(*out), n, stdout) != n)
            return 1;
    free(row);
    free(out);
    return got == 0 && fflush(stdout) == 0 ? 0 : 1;
}
