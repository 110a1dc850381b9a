/* SPDX-License-Identifier: Apache-2.0
 * evp.h - stands in for OpenSSL where a test is cross-compiled: SHA-256 alone, by the
 * names that common/sha256.c uses (standins.c). Models are written and read with it, and
 * the digest of a file made on both machines is compared, so a mistake would show.
 */
#ifndef CE_TESTS_ARM64_EVP_H
#define CE_TESTS_ARM64_EVP_H

#include <stddef.h>

typedef struct standins_sha256 EVP_MD_CTX;
typedef struct standins_md EVP_MD;

const EVP_MD *EVP_sha256(void);
EVP_MD_CTX *EVP_MD_CTX_new(void);
void EVP_MD_CTX_free(EVP_MD_CTX *c);
int EVP_DigestInit_ex(EVP_MD_CTX *c, const EVP_MD *type, void *engine);
int EVP_DigestUpdate(EVP_MD_CTX *c, const void *data, size_t size);
int EVP_DigestFinal_ex(EVP_MD_CTX *c, unsigned char *out, unsigned int *len);
int EVP_Digest(const void *data, size_t size, unsigned char *out, unsigned int *len,
               const EVP_MD *type, void *engine);

#endif
