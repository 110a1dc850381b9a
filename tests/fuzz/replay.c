/* SPDX-License-Identifier: Apache-2.0
 * replay.c - run a fuzz target over files, without libFuzzer.
 *
 * Linked with a fuzz target in every ordinary build, so that any compiler
 * checks what fuzzing once found. Each input is also cut at several lengths:
 * most defects of parsers show at an end that comes too early.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A copy of exactly `size` bytes, so that sanitizers see an overrun. */
static int
feed(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size > 0 ? size : 1);

    if (copy == NULL)
        return 1;
    memcpy(copy, data, size);
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
    return 0;
}

static int
replay(const char *path)
{
    static uint8_t buf[1 << 20];
    FILE *f = fopen(path, "rb");
    size_t size;
    int rc = 0;

    if (f == NULL) {
        perror(path);
        return 1;
    }
    size = fread(buf, 1, sizeof(buf), f);
    fclose(f);
    for (size_t cut = 0; cut < size && cut < 512; cut++)
        rc |= feed(buf, cut);
    return rc | feed(buf, size);
}

int
main(int argc, char **argv)
{
    int rc = 0;

    for (int i = 1; i < argc; i++)
        rc |= replay(argv[i]);
    return rc;
}
