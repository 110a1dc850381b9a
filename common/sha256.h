/* SPDX-License-Identifier: Apache-2.0
 * sha256.h - SHA-256 of bytes and files, and its hexadecimal text.
 *
 * Identifies models and configurations; hashing is OpenSSL's. Thread: any.
 */
#ifndef CE_COMMON_SHA256_H
#define CE_COMMON_SHA256_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define SHA256_BYTES 32
#define SHA256_TEXT  65 /* 64 digits and NUL */

int sha256_bytes(const void *data, size_t size, uint8_t out[SHA256_BYTES],
                 struct err *err) CE_MUSTCHECK;

/* Of a file's content, read in pieces; about 2 s per GB where the processor has
 * SHA instructions. */
int sha256_file(const char *path, uint8_t out[SHA256_BYTES],
                struct err *err) CE_MUSTCHECK;

/* Lower-case digits. */
void sha256_text(const uint8_t digest[SHA256_BYTES], char out[SHA256_TEXT]);

/* The reverse; CE_EFORMAT unless `text` is exactly 64 hexadecimal digits. `len`
 * excludes any NUL. */
int sha256_parse(const char *text, size_t len, uint8_t out[SHA256_BYTES]);

#endif
