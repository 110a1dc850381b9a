/* SPDX-License-Identifier: Apache-2.0
 * standins.c - what cross-compiled tests need of libraries that have no ARM package on
 * a plain Debian: a runner of tests, SHA-256 (FIPS 180-4), and no real model.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/evp.h>

#include "tests/backend/reference_data.h"

/* ---- tests ---- */

static jmp_buf next_test;

void
standins_skip(void)
{
    longjmp(next_test, 1);
}

void
standins_fail(const char *file, int line, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);
    exit(1);
}

/* Tests in the list that the environment names, else all. */
static int
is_wanted(const char *name)
{
    const char *only = getenv("ONLY_TESTS");

    return only == NULL || strstr(only, name) != NULL;
}

int
standins_run(const struct CMUnitTest *tests, size_t n)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (volatile size_t i = 0; i < n; i++) {
        void *state = NULL;

        if (!is_wanted(tests[i].name))
            continue;
        if (setjmp(next_test) == 0) {
            tests[i].run(&state);
            printf("ok %s\n", tests[i].name);
        } else
            printf("skipped %s\n", tests[i].name);
    }
    return 0;
}

const char *
reference_model(void)
{
    return NULL;
}

/* ---- SHA-256 ---- */

struct standins_sha256 {
    uint32_t h[8];
    uint64_t n; /* bytes so far */
    uint8_t block[64];
};

static const uint32_t primes[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
    0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
    0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
    0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
    0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
    0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
    0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
    0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
    0xc67178f2,
};

static uint32_t
turn(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static void
compress(struct standins_sha256 *c)
{
    uint32_t w[64], s[8];

    for (int i = 0; i < 16; i++) {
        const uint8_t *b = c->block + 4 * i;

        w[i] = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
    }
    for (int i = 16; i < 64; i++) {
        uint32_t x = w[i - 15], y = w[i - 2];

        w[i] = w[i - 16] + w[i - 7] + (turn(x, 7) ^ turn(x, 18) ^ x >> 3) +
               (turn(y, 17) ^ turn(y, 19) ^ y >> 10);
    }
    memcpy(s, c->h, sizeof(s));
    for (int i = 0; i < 64; i++) {
        uint32_t a = s[0], e = s[4];
        uint32_t t1 = s[7] + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) +
                      ((e & s[5]) ^ (~e & s[6])) + primes[i] + w[i];
        uint32_t t2 = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) +
                      ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));

        memmove(s + 1, s, 7 * sizeof(s[0]));
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++)
        c->h[i] += s[i];
}

const EVP_MD *
EVP_sha256(void)
{
    return NULL;
}

EVP_MD_CTX *
EVP_MD_CTX_new(void)
{
    return calloc(1, sizeof(EVP_MD_CTX));
}

void
EVP_MD_CTX_free(EVP_MD_CTX *c)
{
    free(c);
}

int
EVP_DigestInit_ex(EVP_MD_CTX *c, const EVP_MD *type, void *engine)
{
    static const uint32_t start[8] = { 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19 };

    (void)type;
    (void)engine;
    memcpy(c->h, start, sizeof(start));
    c->n = 0;
    return 1;
}

int
EVP_DigestUpdate(EVP_MD_CTX *c, const void *data, size_t size)
{
    for (const uint8_t *p = data; size > 0; size--) {
        c->block[c->n++ % 64] = *p++;
        if (c->n % 64 == 0)
            compress(c);
    }
    return 1;
}

int
EVP_DigestFinal_ex(EVP_MD_CTX *c, unsigned char *out, unsigned int *len)
{
    uint64_t bits = c->n * 8;
    uint8_t end[8];

    EVP_DigestUpdate(c, "\x80", 1);
    while (c->n % 64 != 56)
        EVP_DigestUpdate(c, "", 1);
    for (int i = 0; i < 8; i++)
        end[i] = (uint8_t)(bits >> (56 - 8 * i));
    EVP_DigestUpdate(c, end, 8);
    for (int i = 0; i < 32; i++)
        out[i] = (uint8_t)(c->h[i / 4] >> (24 - i % 4 * 8));
    if (len)
        *len = 32;
    return 1;
}

int
EVP_Digest(const void *data, size_t size, unsigned char *out, unsigned int *len,
           const EVP_MD *type, void *engine)
{
    EVP_MD_CTX c;

    EVP_DigestInit_ex(&c, type, engine);
    EVP_DigestUpdate(&c, data, size);
    return EVP_DigestFinal_ex(&c, out, len);
}
