/* SPDX-License-Identifier: Apache-2.0
 * sha256.c - SHA-256 by OpenSSL's EVP interface.
 */
#include "common/sha256.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/evp.h>

#define PIECE_BYTES ((size_t)1 << 18)

int
sha256_bytes(const void *data, size_t size, uint8_t out[SHA256_BYTES], struct err *err)
{
    if (EVP_Digest(data, size, out, NULL, EVP_sha256(), NULL) != 1)
        return err_set(err, CE_EINTERNAL, "SHA-256 failed");
    return 0;
}

/* Feed the whole stream; false on a hashing error (read errors: ferror). */
static bool
digest_stream(FILE *f, EVP_MD_CTX *ctx, unsigned char *piece, uint8_t *out)
{
    size_t n;

    if (EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1)
        return false;
    while ((n = fread(piece, 1, PIECE_BYTES, f)) > 0)
        if (EVP_DigestUpdate(ctx, piece, n) != 1)
            return false;
    return EVP_DigestFinal_ex(ctx, out, NULL) == 1;
}

int
sha256_file(const char *path, uint8_t out[SHA256_BYTES], struct err *err)
{
    FILE *f = fopen(path, "rbe");
    unsigned char *piece = NULL;
    EVP_MD_CTX *ctx = NULL;
    int rc = 0;

    if (f == NULL)
        return err_set(err, CE_EIO, "%s: %s", path, strerror(errno));
    piece = malloc(PIECE_BYTES);
    ctx = EVP_MD_CTX_new();
    if (piece == NULL || ctx == NULL)
        rc = err_set(err, CE_ENOMEM, "%s: no memory", path);
    else if (!digest_stream(f, ctx, piece, out))
        rc = err_set(err, CE_EINTERNAL, "%s: SHA-256 failed", path);
    else if (ferror(f))
        rc = err_set(err, CE_EIO, "%s: %s", path, strerror(errno));
    EVP_MD_CTX_free(ctx);
    free(piece);
    fclose(f);
    return rc;
}

void
sha256_text(const uint8_t digest[SHA256_BYTES], char out[SHA256_TEXT])
{
    int i;

    for (i = 0; i < SHA256_BYTES; i++)
        snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

static int
hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int
sha256_parse(const char *text, size_t len, uint8_t out[SHA256_BYTES])
{
    int i, hi, lo;

    if (len != 2 * SHA256_BYTES)
        return CE_EFORMAT;
    for (i = 0; i < SHA256_BYTES; i++) {
        hi = hex_digit(text[2 * i]);
        lo = hex_digit(text[2 * i + 1]);
        if (hi < 0 || lo < 0)
            return CE_EFORMAT;
        out[i] = (uint8_t)(hi << 4 | lo);
    }
    return 0;
}
