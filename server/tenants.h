/* SPDX-License-Identifier: Apache-2.0
 * tenants.h - the tenants file: who is who, and what each may have.
 *
 *     [tenant acme]
 *     san = edge*.acme.example     names of certificates; may be repeated
 *     key_pin = sha256:BASE64      keys of certificates; may be repeated
 *     token_sha256 = HEX           hashes of bearer tokens; may be repeated
 *     require = cert               cert, token or both
 *     max_sessions = 100           limits and weight, see limits.h
 *     [default]
 *     unknown = refuse             certificates that no section names
 *
 * A table is made from a file in one piece or not at all, and never changes; a reload
 * makes another. What tenants have at a moment is in tenant.h.
 *
 * Rules (tenants_find): a certificate names the tenant whose key_pin it has, or else the
 * first one, in the file's order, with a san for one of its names. A token names the
 * tenant that has its hash. A token that nobody has is refused, whatever else is there,
 * and so are a token and a certificate of two tenants. Then the tenant's `require` must
 * be met.
 *
 * Thread: any once made; a table has one owner.
 */
#ifndef CE_SERVER_TENANTS_H
#define CE_SERVER_TENANTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/conffile.h"
#include "common/error.h"
#include "common/tls.h"
#include "server/limits.h"

#define TENANTS_MAX        4096 /* sections of one file */
#define TENANTS_MAX_VALUES 64   /* of one repeated key of one section */
#define TENANTS_MAX_WEIGHT 65536
#define TENANTS_NAME_SIZE  65
#define TENANTS_SHARED     "default" /* the name of unknown = shared */

enum tenants_require { TENANTS_CERT, TENANTS_TOKEN, TENANTS_BOTH };
enum tenants_unknown { TENANTS_REFUSE, TENANTS_SHARE, TENANTS_OWN };

/* A repeated key's values, all of one size; the array is owned. */
struct tenants_digests {
    uint8_t (*list)[32];
    int n;
};

struct tenants_member {
    struct tenants *table;
    char name[TENANTS_NAME_SIZE]; /* letters, digits, '.', '-', '_' */
    char **sans;                  /* owned, each */
    int n_sans;
    struct tenants_digests pins, tokens;
    int require; /* enum tenants_require */
    int64_t weight;
    struct limits limits;
};

struct tenants {
    struct tenants_member **list; /* owned, in the file's order */
    int n;
    int unknown; /* enum tenants_unknown */
    int64_t weight;
    struct limits limits; /* of [default] */
};

/* For documentation: the two kinds of sections and their keys. */
extern const struct conffile_schema tenants_schema;

/* Read a file. CE_EIO, CE_EINVAL ("FILE:LINE: key: what is wrong"), CE_ENOMEM. */
int tenants_load(struct tenants **out, const char *path, struct err *err) CE_MUSTCHECK;
void tenants_free(struct tenants *t); /* accepts NULL */

/* Who came. NULL with 0: nobody's certificate, which [default] lets in as `unknown`
 * says. CE_EAUTH with a text for the peer that names no other tenant's secrets.
 * token: len bytes, 0 when none came; token_hash gets its SHA-256 (zeros without). */
int tenants_find(const struct tenants *t, const struct tls_peer *peer, const char *token,
                 size_t len, const struct tenants_member **out, uint8_t token_hash[32],
                 struct err *err) CE_MUSTCHECK;

/* The section of this name, or NULL. */
const struct tenants_member *tenants_named(const struct tenants *t, const char *name);

/* Has the member this token? Takes equally long for every token of one table. */
bool tenants_has_token(const struct tenants_member *m, const uint8_t token_hash[32]);

/* Is the name (of a certificate, of kind 'D' or 'U', see tls_peer.sans) within the
 * pattern? '*' stands for any characters but '.' in a DNS name, '/' in a URI. */
bool tenants_san_match(const char *pattern, char kind, const char *name);

/* A new random token: 32 bytes as 43 characters of base64url and NUL, and the
 * hexadecimal SHA-256 of that text with NUL. */
int tenants_make_token(char token[44], char hash[65], struct err *err) CE_MUSTCHECK;

#endif
