/* SPDX-License-Identifier: Apache-2.0
 * tenants.c - the tenants file read, and who is who in it; see tenants.h.
 *
 * Keys that may be repeated are taken by functions of ours, which also refuse what two
 * tenants cannot both have: the same pattern, key or token. Patterns of two tenants
 * may still overlap; then the file's order decides.
 *
 * Tokens are random, so a plain hash protects them at rest; a slow one would only let
 * strangers make us slow. All hashes of all tenants are compared, none stops early.
 */
#include "server/tenants.h"

#include <ctype.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "common/memory.h"
#include "common/sha256.h"

#define MAX_SAN    255
#define PIN_PREFIX "sha256:"
#define MAX_WHOLE  9007199254740992.0 /* 2^53 */

static int
complain(char *why, size_t size, const char *what)
{
    snprintf(why, size, "%s", what);
    return CE_EINVAL;
}

static int
no_memory(char *why, size_t size)
{
    snprintf(why, size, "%s", err_name(CE_ENOMEM));
    return CE_ENOMEM;
}

/* ---- names of certificates ---- */

static bool
is_uri(const char *pattern)
{
    return strchr(pattern, ':') != NULL;
}

static bool
same_char(char a, char b, bool any_case)
{
    return any_case ? tolower((unsigned char)a) == tolower((unsigned char)b) : a == b;
}

bool
tenants_san_match(const char *pattern, char kind, const char *name)
{
    char stop = kind == 'U' ? '/' : '.';
    const char *star = NULL, *from = NULL; /* the last '*', and where it ends now */

    if (is_uri(pattern) != (kind == 'U'))
        return false;
    while (*name) {
        if (*pattern == '*') {
            star = pattern++;
            from = name;
        } else if (*pattern && same_char(*pattern, *name, kind != 'U')) {
            pattern++;
            name++;
        } else if (star && *from != stop) { /* let it take one more */
            name = ++from;
            pattern = star + 1;
        } else {
            return false;
        }
    }
    while (*pattern == '*')
        pattern++;
    return *pattern == '\0';
}

static int
san_check(const char *text, char *why, size_t size)
{
    size_t len = strlen(text), i;

    if (len == 0)
        return complain(why, size, "must not be empty");
    if (len > MAX_SAN)
        return complain(why, size, "is longer than 255 characters");
    for (i = 0; i < len; i++)
        if (text[i] <= ' ' || text[i] > '~')
            return complain(why, size, "holds a space or a character beyond ASCII");
    if (text[strspn(text, "*./:")] == '\0')
        return complain(why, size,
                        "would be any certificate's name; [default] is for those");
    return 0;
}

static int
take_san(void *base, const char *text, char *why, size_t size)
{
    struct tenants_member *m = base;
    char **more;
    int rc = san_check(text, why, size), i, j;

    if (rc < 0)
        return rc;
    for (i = 0; i < m->table->n; i++)
        for (j = 0; j < m->table->list[i]->n_sans; j++)
            if (strcmp(m->table->list[i]->sans[j], text) == 0) {
                snprintf(why, size, "tenant %s has it already", m->table->list[i]->name);
                return CE_EINVAL;
            }
    if (m->n_sans == TENANTS_MAX_VALUES)
        return complain(why, size, "is there 64 times already, the most");
    more = mem_array_resize(m->sans, (size_t)m->n_sans + 1, sizeof(*more));
    if (!more)
        return no_memory(why, size);
    m->sans = more;
    m->sans[m->n_sans] = mem_strdup(text);
    if (!m->sans[m->n_sans])
        return no_memory(why, size);
    m->n_sans++;
    return 0;
}

/* ---- keys and tokens ---- */

static bool
has_digest(const struct tenants_digests *d, const uint8_t digest[32])
{
    int i, found = 0;

    for (i = 0; i < d->n; i++)
        found |= CRYPTO_memcmp(d->list[i], digest, 32) == 0;
    return found;
}

static int
add_digest(struct tenants_digests *d, const uint8_t digest[32], char *why, size_t size)
{
    uint8_t(*more)[32];

    if (d->n == TENANTS_MAX_VALUES)
        return complain(why, size, "is there 64 times already, the most");
    more = mem_array_resize(d->list, (size_t)d->n + 1, sizeof(*more));
    if (!more)
        return no_memory(why, size);
    d->list = more;
    memcpy(d->list[d->n++], digest, 32);
    return 0;
}

/* Base64 of exactly 32 bytes, as OpenSSL and curl print pins. */
static bool
parse_pin(const char *text, uint8_t digest[32])
{
    unsigned char bytes[34], back[46];

    if (strncmp(text, PIN_PREFIX, strlen(PIN_PREFIX)) != 0)
        return false;
    text += strlen(PIN_PREFIX);
    if (strlen(text) != 44 ||
        EVP_DecodeBlock(bytes, (const unsigned char *)text, 44) != 33)
        return false;
    EVP_EncodeBlock(back, bytes, 32);
    if (memcmp(back, text, 44) != 0) /* bits beyond the end */
        return false;
    memcpy(digest, bytes, 32);
    return true;
}

static int
take_pin(void *base, const char *text, char *why, size_t size)
{
    struct tenants_member *m = base;
    uint8_t digest[32];
    int i;

    if (!parse_pin(text, digest))
        return complain(why, size,
                        "is not sha256: and 44 characters of base64 (the SHA-256 of a "
                        "SubjectPublicKeyInfo)");
    for (i = 0; i < m->table->n; i++)
        if (has_digest(&m->table->list[i]->pins, digest)) {
            snprintf(why, size, "tenant %s has it already", m->table->list[i]->name);
            return CE_EINVAL;
        }
    return add_digest(&m->pins, digest, why, size);
}

static int
take_token(void *base, const char *text, char *why, size_t size)
{
    struct tenants_member *m = base;
    uint8_t digest[32];
    int i;

    if (sha256_parse(text, strlen(text), digest) < 0)
        return complain(why, size,
                        "is not 64 hexadecimal digits (cecollm-cloudd --make-token "
                        "prints them)");
    for (i = 0; i < m->table->n; i++)
        if (has_digest(&m->table->list[i]->tokens, digest)) {
            snprintf(why, size, "tenant %s has it already", m->table->list[i]->name);
            return CE_EINVAL;
        }
    return add_digest(&m->tokens, digest, why, size);
}

bool
tenants_has_token(const struct tenants_member *m, const uint8_t token_hash[32])
{
    return has_digest(&m->tokens, token_hash);
}

/* ---- the table of keys ---- */

static const char *const requires[] = { "cert", "token", "both", NULL };
static const char *const unknowns[] = { "refuse", "shared", "own", NULL };

static void *open_member(void *settings, const char *label, struct err *err);
static int check_member(void *base, char *why, size_t why_size);

/* clang-format off */
#define LIMIT_KEYS(type) \
    { "weight", CONFFILE_INT, offsetof(struct type, weight), "1", \
      .min = 1, .max = TENANTS_MAX_WEIGHT, \
      .help = "Its share of the computing when there is too little of it, against the " \
              "other tenants' weights." }, \
    { "max_sessions", CONFFILE_INT, offsetof(struct type, limits.max_sessions), "0", \
      .min = 0, .max = 1e9, \
      .help = "Sessions open at once. 0: no limit but the server's." }, \
    { "max_seqs", CONFFILE_INT, offsetof(struct type, limits.max_seqs), "0", \
      .min = 0, .max = 1e9, \
      .help = "Sequences open at once, of all its sessions. 0: no limit but the " \
              "server's." }, \
    { "kv_bytes", CONFFILE_SIZE, offsetof(struct type, limits.kv_bytes), "0", .min = 0, \
      .max = MAX_WHOLE, \
      .help = "Memory for its KV caches. Past it room is made among its own sequences " \
              "only: idle ones are computed again when they ask. One sequence that needs " \
              "more is refused. 0: no limit but the server's." }, \
    { "hidden_state_bytes", CONFFILE_SIZE, \
      offsetof(struct type, limits.hidden_state_bytes), "0", .min = 0, .max = MAX_WHOLE, \
      .help = "Hidden states that may wait to be computed. Every open sequence is " \
              "counted with what it may have waiting: window rows, or its own length " \
              "where that is less. 0: no limit." }, \
    { "rows_per_second", CONFFILE_INT, offsetof(struct type, limits.rows_per_second), \
      "0", .min = 0, .max = 1e12, \
      .help = "Hidden states (positions) taken from it, in the long run. Past it agents " \
              "are granted no more for a while; nothing is cut off. Whole answers left " \
              "to the server (GENERATE) count their tokens, and are refused past it. 0: " \
              "no limit." }, \
    { "bytes_per_second", CONFFILE_SIZE, offsetof(struct type, limits.bytes_per_second), \
      "0", .min = 0, .max = MAX_WHOLE, \
      .help = "Bytes of its agents' frames, in the long run. Past it agents are granted " \
              "no more hidden states, and their requests are read later. 0: no limit." }, \
    { "burst", CONFFILE_DURATION, offsetof(struct type, limits.burst_us), "2s", \
      .min = 1e3, .max = 3600e6, \
      .help = "So much time's worth of the two rates may be saved up and used at once." }

static const struct conffile_key member_keys[] = {
    { "san", CONFFILE_OTHER, .take = take_san, .many = true,
      .help = "A name of agents' certificates: of a subject alternative name (DNS or URI; "
              "the common name where there is none). * stands for any characters but a "
              "dot, in a URI but a slash. May be repeated. Where sections overlap the "
              "first one counts." },
    { "key_pin", CONFFILE_OTHER, .take = take_pin, .many = true,
      .help = "sha256: and the base64 of the SHA-256 of a certificate's "
              "SubjectPublicKeyInfo: that key, whatever names the certificate has. Goes "
              "before every san. May be repeated." },
    { "token_sha256", CONFFILE_OTHER, .take = take_token, .many = true,
      .help = "The SHA-256 of a bearer token, as cecollm-cloudd --make-token prints it. "
              "May be repeated: while a token is replaced, both are right." },
    { "require", CONFFILE_ENUM, offsetof(struct tenants_member, require), "cert",
      .choices = requires,
      .help = "What an agent must show. cert: a certificate that this section names. "
              "token: a token of this section. both: both." },
    LIMIT_KEYS(tenants_member),
};

static const struct conffile_key default_keys[] = {
    { "unknown", CONFFILE_ENUM, offsetof(struct tenants, unknown), "refuse",
      .choices = unknowns,
      .help = "Valid certificates that no section names. refuse: they are refused. "
              "shared: they are one tenant, \"default\". own: each name is a tenant, "
              "\"cert:NAME\". The keys below are for these tenants." },
    LIMIT_KEYS(tenants),
};

static const struct conffile_section sections[] = {
    { .name = "tenant", .keys = member_keys,
      .n_keys = (int)(sizeof(member_keys) / sizeof(member_keys[0])),
      .open = open_member, .check = check_member,
      .help = "Tenants of cecollm-cloudd, one section each; see cecollm-tenants(5). NAME "
              "is 1 to 64 letters, digits, dots, dashes and underscores." },
    { .name = "default", .keys = default_keys,
      .n_keys = (int)(sizeof(default_keys) / sizeof(default_keys[0])),
      .help = "Everybody else." },
};
/* clang-format on */

const struct conffile_schema tenants_schema = { sections, 2 };

/* ---- sections ---- */

static void *
open_member(void *settings, const char *label, struct err *err)
{
    struct tenants *t = settings;
    struct tenants_member *m, **more;
    size_t len = strlen(label);

    if (len == 0 || len >= TENANTS_NAME_SIZE ||
        label[strspn(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                            "0123456789.-_")] != '\0') {
        err_set(err, CE_EINVAL, "a tenant's name is 1 to 64 of A-Z a-z 0-9 . - _");
        return NULL;
    }
    if (strcmp(label, TENANTS_SHARED) == 0 || strcmp(label, "other") == 0) {
        err_set(err, CE_EINVAL,
                "this name is taken: [default] is for everybody else, "
                "\"other\" for what metrics do not name");
        return NULL;
    }
    if (t->n == TENANTS_MAX) {
        err_set(err, CE_EINVAL, "more than %d tenants", TENANTS_MAX);
        return NULL;
    }
    more = mem_array_resize(t->list, (size_t)t->n + 1, sizeof(struct tenants_member *));
    if (more)
        t->list = more;
    m = more ? mem_array_alloc(1, sizeof(*m)) : NULL;
    if (!m) {
        err_set(err, CE_ENOMEM, "%s", err_name(CE_ENOMEM));
        return NULL;
    }
    m->table = t;
    memcpy(m->name, label, len + 1);
    t->list[t->n++] = m;
    return m;
}

/* Can anybody be this tenant? */
static int
check_member(void *base, char *why, size_t size)
{
    const struct tenants_member *m = base;
    bool certs = m->n_sans > 0 || m->pins.n > 0;

    if (m->require != TENANTS_TOKEN && !certs)
        return complain(why, size,
                        "require wants a certificate, but there is no san and no "
                        "key_pin");
    if (m->require != TENANTS_CERT && m->tokens.n == 0)
        return complain(why, size, "require wants a token, but there is no token_sha256");
    return 0;
}

int
tenants_load(struct tenants **out, const char *path, struct err *err)
{
    struct tenants *t = mem_array_alloc(1, sizeof(*t));
    int rc;

    *out = NULL;
    if (!t)
        return err_set(err, CE_ENOMEM, "%s: %s", path, err_name(CE_ENOMEM));
    rc = conffile_defaults(&tenants_schema, t, err);
    if (rc == 0)
        rc = conffile_load(&tenants_schema, t, path, err);
    if (rc == 0 && t->n == 0 && t->unknown == TENANTS_REFUSE)
        rc = err_set(err, CE_EINVAL,
                     "%s: there is no tenant, and [default] refuses everybody", path);
    if (rc < 0) {
        tenants_free(t);
        return rc;
    }
    *out = t;
    return 0;
}

void
tenants_free(struct tenants *t)
{
    int i, j;

    if (!t)
        return;
    for (i = 0; i < t->n; i++) {
        struct tenants_member *m = t->list[i];

        for (j = 0; j < m->n_sans; j++)
            mem_free(m->sans[j]);
        mem_free(m->sans);
        mem_free(m->pins.list);
        mem_free(m->tokens.list);
        mem_free(m);
    }
    mem_free(t->list);
    mem_free(t);
}

/* ---- who is it ---- */

static bool
names_match(const struct tenants_member *m, const struct tls_peer *peer)
{
    const char *san;
    int i;

    for (san = peer->sans; *san; san += strlen(san) + 1)
        for (i = 0; i < m->n_sans; i++)
            if (tenants_san_match(m->sans[i], san[0], san + 1))
                return true;
    return false;
}

static const struct tenants_member *
find_cert(const struct tenants *t, const struct tls_peer *peer)
{
    int i;

    if (!peer->has_cert)
        return NULL;
    for (i = 0; i < t->n; i++)
        if (has_digest(&t->list[i]->pins, peer->key_sha256))
            return t->list[i];
    for (i = 0; i < t->n; i++)
        if (names_match(t->list[i], peer))
            return t->list[i];
    return NULL;
}

static const struct tenants_member *
find_token(const struct tenants *t, const uint8_t token_hash[32])
{
    const struct tenants_member *found = NULL;
    int i;

    for (i = 0; i < t->n; i++)
        if (tenants_has_token(t->list[i], token_hash))
            found = t->list[i]; /* and on: the time tells nothing */
    return found;
}

int
tenants_find(const struct tenants *t, const struct tls_peer *peer, const char *token,
             size_t len, const struct tenants_member **out, uint8_t token_hash[32],
             struct err *err)
{
    const struct tenants_member *by_cert = find_cert(t, peer), *by_token = NULL, *m;

    *out = NULL;
    memset(token_hash, 0, 32);
    if (len > 0) {
        int rc = sha256_bytes(token, len, token_hash, err);

        if (rc < 0)
            return rc;
        by_token = find_token(t, token_hash);
        if (!by_token)
            return err_set(err, CE_EAUTH, "the token is not known here");
    }
    if (by_cert && by_token && by_cert != by_token)
        return err_set(
            err, CE_EAUTH,
            "the token is not one of tenant %s, whose certificate came with it",
            by_cert->name);
    m = by_token ? by_token : by_cert;
    if (!m && !peer->has_cert)
        return err_set(err, CE_EAUTH, "neither a certificate nor a token came");
    if (!m && t->unknown == TENANTS_REFUSE)
        return err_set(err, CE_EAUTH,
                       "no tenant has this certificate, and no token came");
    if (m && m->require != TENANTS_CERT && !by_token)
        return err_set(err, CE_EAUTH, "tenant %s: a token is required", m->name);
    if (m && m->require != TENANTS_TOKEN && !by_cert)
        return err_set(err, CE_EAUTH,
                       "tenant %s: a certificate of the tenant is required", m->name);
    *out = m;
    return 0;
}

const struct tenants_member *
tenants_named(const struct tenants *t, const char *name)
{
    int i;

    for (i = 0; i < t->n; i++)
        if (strcmp(t->list[i]->name, name) == 0)
            return t->list[i];
    return NULL;
}

int
tenants_make_token(char token[44], char hash[65], struct err *err)
{
    unsigned char bytes[32], text[48];
    uint8_t digest[SHA256_BYTES];
    int rc, i;

    if (RAND_bytes(bytes, sizeof(bytes)) != 1)
        return err_set(err, CE_EIO, "no random numbers");
    EVP_EncodeBlock(text, bytes, sizeof(bytes));
    for (i = 0; i < 43; i++)
        token[i] = text[i] == '+' ? '-' : text[i] == '/' ? '_' : (char)text[i];
    token[43] = '\0';
    rc = sha256_bytes(token, 43, digest, err);
    if (rc == 0)
        sha256_text(digest, hash);
    OPENSSL_cleanse(bytes, sizeof(bytes));
    OPENSSL_cleanse(text, sizeof(text));
    return rc;
}
