/* SPDX-License-Identifier: Apache-2.0
 * test_tenants.c - the tenants file: every rule of who is who, and every way to
 * write it wrong, each one line that names file, line and key.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/memory.h"
#include "common/sha256.h"
#include "server/tenants.h"

/* SHA-256 of "token-one", "token-two"; pins of 32 bytes of 1 and of 2. */
#define PIN_1 "sha256:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
#define PIN_2 "sha256:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="

static char path[64];
static char hash_one[SHA256_TEXT], hash_two[SHA256_TEXT];

static int
set_up(void **state)
{
    uint8_t digest[SHA256_BYTES];
    int fd;

    (void)state;
    snprintf(path, sizeof(path), "/tmp/cecollm-tenants-XXXXXX");
    fd = mkstemp(path);
    if (fd < 0 || close(fd) < 0 || sha256_bytes("token-one", 9, digest, NULL) < 0)
        return -1;
    sha256_text(digest, hash_one);
    if (sha256_bytes("token-two", 9, digest, NULL) < 0)
        return -1;
    sha256_text(digest, hash_two);
    return 0;
}

static int
tear_down(void **state)
{
    (void)state;
    return unlink(path);
}

/* In `text` ONE and TWO stand for the hashes. */
static void
write_file(const char *text)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    for (; *text; text++) {
        if (strncmp(text, "ONE", 3) == 0 || strncmp(text, "TWO", 3) == 0) {
            fputs(*text == 'O' ? hash_one : hash_two, f);
            text += 2;
        } else {
            putc(*text, f);
        }
    }
    assert_int_equal(fclose(f), 0);
}

static struct tenants *
load(const char *text)
{
    struct tenants *t;
    struct err err;

    write_file(text);
    if (tenants_load(&t, path, &err) < 0)
        fail_msg("%s", err.text);
    return t;
}

/* A certificate with these names ("D" or "U" first, '|' between) and key. */
static struct tls_peer
peer_of(const char *sans, int key)
{
    struct tls_peer p = { .has_cert = true };
    size_t i;

    assert_true(strlen(sans) < sizeof(p.sans) - 1);
    for (i = 0; sans[i]; i++)
        p.sans[i] = sans[i] == '|' ? '\0' : sans[i];
    memset(p.key_sha256, key, sizeof(p.key_sha256));
    return p;
}

/* The tenant's name, "(nobody's)" for what [default] lets in, or the refusal. */
static const char *
who(const struct tenants *t, const char *sans, int key, const char *token)
{
    static struct err err;
    struct tls_peer p = { 0 };
    const struct tenants_member *m;
    uint8_t hash[32];

    if (sans)
        p = peer_of(sans, key);
    if (tenants_find(t, &p, token, token ? strlen(token) : 0, &m, hash, &err) < 0) {
        assert_int_equal(err.code, CE_EAUTH);
        assert_null(m);
        return err.text;
    }
    return m ? m->name : "(nobody's)";
}

static void
test_patterns(void **state)
{
    static const struct {
        const char *pattern;
        char kind;
        const char *name;
        bool match;
    } cases[] = {
        { "edge.acme.example", 'D', "edge.acme.example", true },
        { "edge.acme.example", 'D', "EDGE.Acme.example", true },
        { "edge.acme.example", 'D', "edge.acme.example.org", false },
        { "edge.acme.example", 'D', "xedge.acme.example", false },
        { "edge*.acme.example", 'D', "edge7.acme.example", true },
        { "edge*.acme.example", 'D', "edge.acme.example", true },
        { "edge*.acme.example", 'D', "edge.x.acme.example", false },
        { "*.acme.example", 'D', "a.acme.example", true },
        { "*.acme.example", 'D', "a.b.acme.example", false },
        { "*.acme.example", 'D', ".acme.example", true },
        { "edge*", 'D', "edge.evil.example", false },
        { "a*b*c", 'D', "axxbxbxc", true },
        { "a*b*c", 'D', "axxbxbxd", false },
        { "a*b*c.d", 'D', "axb.bc.d", false },
        { "a**b", 'D', "ab", true },
        { "*-*.x", 'D', "1-2-3.x", true },
        { "edge", 'U', "edge", false },
        { "spiffe://acme/edge/*", 'U', "spiffe://acme/edge/7", true },
        { "spiffe://acme/edge/*", 'U', "spiffe://acme/edge/7.8", true },
        { "spiffe://acme/edge/*", 'U', "spiffe://acme/edge/7/8", false },
        { "spiffe://acme/edge/*", 'U', "SPIFFE://acme/edge/7", false },
        { "spiffe://acme/edge", 'D', "spiffe://acme/edge", false },
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        if (tenants_san_match(cases[i].pattern, cases[i].kind, cases[i].name) !=
            cases[i].match)
            fail_msg("%s and %s", cases[i].pattern, cases[i].name);
}

static void
test_certificates(void **state)
{
    struct tenants *t = load("[tenant acme]\n"
                             "san = edge*.acme.example\n"
                             "san = spiffe://acme/*\n"
                             "key_pin = " PIN_1 "\n"
                             "[tenant wide]\n"
                             "san = *.acme.example\n"
                             "key_pin = " PIN_2 "\n");

    (void)state;
    assert_int_equal(t->n, 2);
    assert_int_equal(t->list[0]->weight, 1);
    assert_int_equal(t->list[0]->limits.burst_us, 2000000);
    assert_string_equal(who(t, "Dedge1.acme.example", 9, NULL), "acme"); /* first */
    assert_string_equal(who(t, "Dx.acme.example", 9, NULL), "wide");
    assert_string_equal(who(t, "Dx.example|Dy.acme.example", 9, NULL), "wide");
    assert_string_equal(who(t, "Dx.example|Uspiffe://acme/7", 9, NULL), "acme");
    assert_string_equal(who(t, "Dedge1.acme.example", 2, NULL), "wide"); /* the pin */
    assert_string_equal(who(t, "", 1, NULL), "acme");
    assert_non_null(strstr(who(t, "Dnobody.example", 9, NULL), "no tenant has this"));
    assert_non_null(strstr(who(t, NULL, 0, NULL), "neither a certificate nor a token"));
    tenants_free(t);
}

static void
test_tokens(void **state)
{
    struct tenants *t = load("[tenant acme]\n"
                             "token_sha256 = ONE\n"
                             "token_sha256 = TWO\n"
                             "require = token\n"
                             "[tenant certs]\n"
                             "san = certs.example\n"
                             "[tenant strict]\n"
                             "san = strict.example\n"
                             "require = both\n"
                             "token_sha256 = "
                             "00000000000000000000000000000000"
                             "00000000000000000000000000000000\n");

    (void)state;
    assert_string_equal(who(t, NULL, 0, "token-one"), "acme");
    assert_string_equal(who(t, NULL, 0, "token-two"), "acme"); /* while they rotate */
    assert_string_equal(who(t, "Dx.example", 9, "token-two"), "acme");
    assert_non_null(strstr(who(t, NULL, 0, "token-three"), "token is not known"));
    assert_non_null(strstr(who(t, NULL, 0, "token-on"), "token is not known"));
    /* A wrong token does not become right by a certificate. */
    assert_non_null(strstr(who(t, "Dcerts.example", 9, "x"), "token is not known"));
    assert_non_null(strstr(who(t, "Dcerts.example", 9, "token-one"), "not one of tenant "
                                                                     "certs"));
    assert_string_equal(who(t, "Dcerts.example", 9, NULL), "certs");
    assert_string_equal(who(t, "Dstrict.example", 9, NULL),
                        "tenant strict: a token is required");
    tenants_free(t);
}

static void
test_both(void **state)
{
    struct tenants *t = load("[tenant acme]\nsan = a.example\ntoken_sha256 = ONE\n"
                             "require = both\n"
                             "[tenant plain]\nsan = p.example\ntoken_sha256 = TWO\n");

    (void)state;
    assert_string_equal(who(t, "Da.example", 9, "token-one"), "acme");
    assert_string_equal(who(t, "Da.example", 9, NULL),
                        "tenant acme: a token is required");
    assert_string_equal(who(t, NULL, 0, "token-one"),
                        "tenant acme: a certificate of the tenant is required");
    assert_string_equal(who(t, "Dq.example", 9, "token-one"),
                        "tenant acme: a certificate of the tenant is required");
    assert_string_equal(who(t, "Dp.example", 9, "token-two"), "plain");
    assert_string_equal(who(t, NULL, 0, "token-two"),
                        "tenant plain: a certificate of the tenant is required");
    tenants_free(t);
}

static void
test_default(void **state)
{
    struct tenants *t = load("[tenant acme]\nsan = a.example\n"
                             "[default]\nunknown = own\nmax_seqs = 3\nweight = 2\n");

    (void)state;
    assert_int_equal(t->unknown, TENANTS_OWN);
    assert_int_equal(t->limits.max_seqs, 3);
    assert_int_equal(t->weight, 2);
    assert_string_equal(who(t, "Da.example", 9, NULL), "acme");
    assert_string_equal(who(t, "Dq.example", 9, NULL), "(nobody's)");
    assert_non_null(strstr(who(t, NULL, 0, NULL), "neither"));
    assert_non_null(strstr(who(t, "Dq.example", 9, "token-one"), "not known"));
    assert_non_null(tenants_named(t, "acme"));
    assert_null(tenants_named(t, "default"));
    tenants_free(t);
    t = load("[default]\nunknown = shared\n");
    assert_string_equal(who(t, "Dq.example", 9, NULL), "(nobody's)");
    tenants_free(t);
}

static void
test_every_key(void **state)
{
    struct tenants *t =
        load("[tenant a]\nkey_pin = " PIN_1 "\nrequire = cert\n"
             "weight = 7\nmax_sessions = 1\nmax_seqs = 2\n"
             "kv_bytes = 3K\nhidden_state_bytes = 4M\nrows_per_second = 5\n"
             "bytes_per_second = 6K\nburst = 500ms\n");
    const struct tenants_member *m = t->list[0];

    (void)state;
    assert_int_equal(m->weight, 7);
    assert_int_equal(m->limits.max_sessions, 1);
    assert_int_equal(m->limits.max_seqs, 2);
    assert_int_equal(m->limits.kv_bytes, 3072);
    assert_int_equal(m->limits.hidden_state_bytes, 4 << 20);
    assert_int_equal(m->limits.rows_per_second, 5);
    assert_int_equal(m->limits.bytes_per_second, 6144);
    assert_int_equal(m->limits.burst_us, 500000);
    tenants_free(t);
}

/* Each with the line and what the complaint begins and contains. */
static void
test_bad_files(void **state)
{
    static const struct {
        const char *text;
        int line;
        const char *key, *why;
    } bad[] = {
        { "san = x\n", 1, "san", "unknown key" },
        { "[tenant]\n", 1, "tenant", "needs a name" },
        { "[tenant a b]\nsan = x\n", 1, "tenant a b", "a tenant's name is" },
        { "[tenant a/b]\nsan = x\n", 1, "tenant a/b", "a tenant's name is" },
        { "[tenant default]\n", 1, "tenant default", "taken" },
        { "[tenant other]\n", 1, "tenant other", "taken" },
        { "[tenant a]\nsan = x\n[tenant a]\nsan = y\n", 3, "tenant a", "already" },
        { "[tenants]\n", 1, "tenants", "unknown section" },
        { "[tenant a]\nsan =\n", 2, "san", "empty" },
        { "[tenant a]\nsan = a b\n", 2, "san", "space" },
        { "[tenant a]\nsan = \xc3\xa4.example\n", 2, "san", "ASCII" },
        { "[tenant a]\nsan = *\n", 2, "san", "any certificate" },
        { "[tenant a]\nsan = *.*\n", 2, "san", "any certificate" },
        { "[tenant a]\nsan = x\n[tenant b]\nsan = x\n", 4, "san", "tenant a has it" },
        { "[tenant a]\nkey_pin = AQEB\n", 2, "key_pin", "44 characters" },
        { "[tenant a]\nkey_pin = sha256:AQEB\n", 2, "key_pin", "44 characters" },
        { "[tenant a]\nkey_pin = sha256:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQF=\n",
          2, "key_pin", "44 characters" },
        { "[tenant a]\nkey_pin = sha256:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBA!E=\n",
          2, "key_pin", "44 characters" },
        { "[tenant a]\nkey_pin = " PIN_1 "\nsan = x\n[tenant b]\nkey_pin = " PIN_1 "\n",
          5, "key_pin", "tenant a has it" },
        { "[tenant a]\ntoken_sha256 = secret\n", 2, "token_sha256", "64 hexadecimal" },
        { "[tenant a]\ntoken_sha256 = ONE0\n", 2, "token_sha256", "64 hexadecimal" },
        { "[tenant a]\nrequire = token\ntoken_sha256 = ONE\ntoken_sha256 = ONE\n", 4,
          "token_sha256", "tenant a has it" },
        { "[tenant a]\nrequire = any\n", 2, "require", "cert, token, both" },
        { "[tenant a]\nsan = x\nrequire = cert\nrequire = cert\n", 4, "require",
          "already set in line 3" },
        { "[tenant a]\nweight = 0\n", 2, "weight", "1 to 65536" },
        { "[tenant a]\nmax_seqs = many\n", 2, "max_seqs", "whole number" },
        { "[tenant a]\nmax_sessions = -1\n", 2, "max_sessions", "out of range" },
        { "[tenant a]\nhidden_state_bytes = 3X\n", 2, "hidden_state_bytes", "a size" },
        { "[tenant a]\nburst = 5\n", 2, "burst", "a duration" },
        { "[tenant a]\nrows_per_sec = 5\n", 2, "rows_per_sec", "unknown key" },
        { "\n[tenant a]\nweight = 2\n", 2, "tenant a", "no san and no key_pin" },
        { "[tenant a]\n[tenant b]\nsan = x\n", 1, "tenant a", "no san and no key_pin" },
        { "[tenant a]\nsan = x\nrequire = both\n", 1, "tenant a", "no token_sha256" },
        { "[tenant a]\nrequire = token\nsan = x\n[default]\n", 1, "tenant a",
          "no token_sha256" },
        { "[tenant a]\nrequire = both\ntoken_sha256 = ONE\n", 1, "tenant a",
          "no san and no key_pin" },
        { "[default]\nunknown = yes\n", 2, "unknown", "refuse, shared, own" },
        { "[default]\nsan = x\n", 2, "san", "unknown key" },
    };
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        size_t before = mem_used_bytes();
        struct tenants *t;
        struct err err = { 0 };
        char want[200];

        write_file(bad[i].text);
        assert_int_equal(tenants_load(&t, path, &err), CE_EINVAL);
        assert_null(t);
        snprintf(want, sizeof(want), "%s:%d: %s: ", path, bad[i].line, bad[i].key);
        if (strncmp(err.text, want, strlen(want)) != 0 || !strstr(err.text, bad[i].why) ||
            strchr(err.text, '\n'))
            fail_msg("%s\nsays: %s\nnot: %s...%s", bad[i].text, err.text, want,
                     bad[i].why);
        assert_int_equal(mem_used_bytes(), before);
    }
}

static void
test_whole_file_wrong(void **state)
{
    struct tenants *t;
    struct err err;

    (void)state;
    write_file("# nothing\n");
    assert_int_equal(tenants_load(&t, path, &err), CE_EINVAL);
    assert_non_null(strstr(err.text, "refuses everybody"));
    assert_int_equal(tenants_load(&t, "/nonexistent/tenants.conf", &err), CE_EIO);
    assert_non_null(strstr(err.text, "/nonexistent/tenants.conf"));
}

/* As many as may be, in a time that a reload can take; one more is refused. */
static void
test_many(void **state)
{
    struct tenants *t;
    struct err err;
    FILE *f = fopen(path, "w");
    int i;

    (void)state;
    assert_non_null(f);
    for (i = 0; i < TENANTS_MAX; i++)
        fprintf(f, "[tenant t%d]\nsan = t%d.example\nmax_seqs = 4\n", i, i);
    fclose(f);
    assert_int_equal(tenants_load(&t, path, &err), 0);
    assert_string_equal(who(t, "Dt4095.example", 9, NULL), "t4095");
    tenants_free(t);
    f = fopen(path, "a");
    assert_non_null(f);
    fprintf(f, "[tenant more]\nsan = more.example\n");
    fclose(f);
    assert_int_equal(tenants_load(&t, path, &err), CE_EINVAL);
    assert_non_null(strstr(err.text, "more than 4096"));
    f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f, "[tenant a]\n");
    for (i = 0; i <= TENANTS_MAX_VALUES; i++)
        fprintf(f, "san = t%d.example\n", i);
    fclose(f);
    assert_int_equal(tenants_load(&t, path, &err), CE_EINVAL);
    assert_non_null(strstr(err.text, ":66: san: is there 64 times"));
}

static void
test_make_token(void **state)
{
    char token[44], other[44], hash[65], text[200], want[SHA256_TEXT];
    uint8_t digest[SHA256_BYTES];
    struct tenants *t;

    (void)state;
    assert_int_equal(tenants_make_token(other, hash, NULL), 0);
    assert_int_equal(tenants_make_token(token, hash, NULL), 0);
    assert_string_not_equal(token, other);
    assert_int_equal(strlen(token), 43);
    assert_int_equal(strspn(token, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                   "0123456789-_"),
                     43);
    assert_int_equal(sha256_bytes(token, 43, digest, NULL), 0);
    sha256_text(digest, want);
    assert_string_equal(hash, want);
    snprintf(text, sizeof(text), "[tenant a]\nrequire = token\ntoken_sha256 = %s\n",
             hash);
    t = load(text);
    assert_string_equal(who(t, NULL, 0, token), "a");
    tenants_free(t);
}

/* The whole file under the source root; freed by the caller. NULL when absent. */
static char *
read_file(const char *name)
{
    const char *root = getenv("CECOLLM_SRCDIR");
    char full[4096], *text;
    size_t n;
    FILE *f;

    snprintf(full, sizeof(full), "%s/%s", root ? root : ".", name);
    f = fopen(full, "r");
    text = f ? calloc(1, 100000) : NULL;
    if (!text)
        return NULL;
    n = fread(text, 1, 99999, f);
    text[n] = '\0';
    fclose(f);
    return text;
}

static void
test_example_is_the_table(void **state)
{
    char *file = read_file("etc/cecollm-tenants.conf"), *printed = NULL;
    size_t size;
    FILE *out;

    (void)state;
    if (!file)
        skip();
    out = open_memstream(&printed, &size);
    conffile_print(&tenants_schema, out);
    fclose(out);
    assert_non_null(strstr(file, printed));
    free(file);
    free(printed);
}

static void
test_manual_names_every_key(void **state)
{
    char *page = read_file("man/cecollm-tenants.5");
    int s, i;

    (void)state;
    if (!page)
        skip();
    for (s = 0; s < tenants_schema.n_sections; s++)
        for (i = 0; i < tenants_schema.sections[s].n_keys; i++) {
            const struct conffile_key *key = &tenants_schema.sections[s].keys[i];
            char want[256];

            snprintf(want, sizeof(want), "\n.It Cm %s No = ", key->name);
            if (!strstr(page, want))
                fail_msg("cecollm-tenants(5) lacks %s", key->name);
            snprintf(want, sizeof(want), "The default is\n.Cm %s .\n",
                     key->def ? key->def : "");
            if (key->def && !strstr(page, want))
                fail_msg("cecollm-tenants(5): %s: %s", key->name, want);
        }
    free(page);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_certificates),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_both),
        cmocka_unit_test(test_default),
        cmocka_unit_test(test_every_key),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_whole_file_wrong),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_make_token),
        cmocka_unit_test(test_example_is_the_table),
        cmocka_unit_test(test_manual_names_every_key),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
