/* SPDX-License-Identifier: Apache-2.0
 * test_tls.c - real handshakes between the two contexts, and each way in which
 * files or peers may be wrong. Certificates are made here, in a temporary folder.
 */
#include "common/tls.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#define DAY 86400L

static char dir[] = "test_tls.XXXXXX";
static char paths[32][64];
static int n_paths;

/* "DIR/name", kept until the end of the program. */
static const char *
in_dir(const char *name)
{
    for (int i = 0; i < n_paths; i++)
        if (strcmp(paths[i] + sizeof(dir), name) == 0)
            return paths[i];
    assert_true(n_paths < 32);
    snprintf(paths[n_paths], sizeof(paths[0]), "%s/%s", dir, name);
    return paths[n_paths++];
}

static void
add_ext(X509 *cert, int nid, const char *value)
{
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, NULL, nid, value);

    assert_non_null(ext);
    assert_int_equal(X509_add_ext(cert, ext, -1), 1);
    X509_EXTENSION_free(ext);
}

struct issuer {
    EVP_PKEY *key;
    X509 *cert;
};

/* Make NAME.crt and NAME.key; with issuer NULL an authority. */
static struct issuer
make_cert(const struct issuer *issuer, const char *name, const char *san, long from,
          long until)
{
    struct issuer made = { EVP_EC_gen("P-256"), X509_new() };
    static long serial = 1;
    X509_NAME *subject = X509_get_subject_name(made.cert);
    char file[40];
    FILE *f;

    assert_true(made.key != NULL && made.cert != NULL);
    X509_set_version(made.cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(made.cert), serial++);
    X509_gmtime_adj(X509_getm_notBefore(made.cert), from);
    X509_gmtime_adj(X509_getm_notAfter(made.cert), until);
    X509_set_pubkey(made.cert, made.key);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)name,
                               -1, -1, 0);
    X509_set_issuer_name(made.cert,
                         issuer != NULL ? X509_get_subject_name(issuer->cert) : subject);
    if (issuer == NULL)
        add_ext(made.cert, NID_basic_constraints, "critical,CA:TRUE");
    if (san != NULL)
        add_ext(made.cert, NID_subject_alt_name, san);
    assert_true(
        X509_sign(made.cert, issuer != NULL ? issuer->key : made.key, EVP_sha256()) > 0);

    snprintf(file, sizeof(file), "%s.crt", name);
    f = fopen(in_dir(file), "w");
    assert_non_null(f);
    PEM_write_X509(f, made.cert);
    fclose(f);
    snprintf(file, sizeof(file), "%s.key", name);
    f = fopen(in_dir(file), "w");
    assert_non_null(f);
    PEM_write_PrivateKey(f, made.key, NULL, NULL, 0, NULL, NULL);
    fclose(f);
    return made;
}

static void
issuer_free(struct issuer i)
{
    EVP_PKEY_free(i.key);
    X509_free(i.cert);
}

static void
write_text(const char *name, const char *text)
{
    FILE *f = fopen(in_dir(name), "w");

    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int
make_all(void **state)
{
    struct issuer ca, other;

    (void)state;
    if (mkdtemp(dir) == NULL)
        return -1;
    ca = make_cert(NULL, "ca", NULL, -DAY, DAY);
    other = make_cert(NULL, "other", NULL, -DAY, DAY);
    issuer_free(make_cert(&ca, "server", "DNS:localhost,IP:127.0.0.1,IP:::1", -DAY, DAY));
    issuer_free(make_cert(&ca, "edge", "DNS:edge-7,URI:cecollm://acme/7", -DAY, DAY));
    issuer_free(make_cert(&ca, "dns", "email:a@b.c,DNS:edge-8", -DAY, DAY));
    issuer_free(make_cert(&ca, "bare", NULL, -DAY, DAY));
    issuer_free(make_cert(&ca, "old", NULL, -3 * DAY, -DAY));
    issuer_free(make_cert(&ca, "early", NULL, DAY, 2 * DAY));
    issuer_free(make_cert(&other, "stranger", "DNS:localhost", -DAY, DAY));
    issuer_free(ca);
    issuer_free(other);
    write_text("empty", "");
    write_text("garbage",
               "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    return 0;
}

static int
remove_all(void **state)
{
    (void)state;
    for (int i = 0; i < n_paths; i++)
        unlink(paths[i]);
    return rmdir(dir);
}

static struct tls_files
files(const char *ca, const char *name)
{
    struct tls_files f = { 0 };
    char file[40];

    snprintf(file, sizeof(file), "%s.crt", ca);
    f.ca = in_dir(file);
    snprintf(file, sizeof(file), "%s.crt", name);
    f.cert = in_dir(file);
    snprintf(file, sizeof(file), "%s.key", name);
    f.key = in_dir(file);
    return f;
}

struct pair {
    SSL_CTX *server_ctx, *client_ctx;
    SSL *server, *client;
    int fds[2];
    struct err server_err, client_err; /* .code 0: the handshake went well */
};

static void
pair_open(struct pair *p, struct tls_files server, struct tls_files client,
          const char *host)
{
    struct err err = { 0 };

    memset(p, 0, sizeof(*p));
    if (tls_server_new(&p->server_ctx, &server, &err) != 0 ||
        tls_client_new(&p->client_ctx, &client, &err) != 0 ||
        tls_client_ssl(&p->client, p->client_ctx, host, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p->fds), 0);
    p->server = SSL_new(p->server_ctx);
    SSL_set_accept_state(p->server);
    SSL_set_fd(p->server, p->fds[0]);
    SSL_set_fd(p->client, p->fds[1]);
}

/* One step of one side; 1 when its handshake is over, well or not. */
static int
step(SSL *ssl, struct err *err, const char *who)
{
    int rc = err->code == 0 ? SSL_do_handshake(ssl) : 0;

    if (err->code != 0 || rc == 1)
        return 1;
    rc = SSL_get_error(ssl, rc);
    if (rc == SSL_ERROR_WANT_READ || rc == SSL_ERROR_WANT_WRITE) {
        ERR_clear_error();
        return 0;
    }
    tls_error(err, CE_EAUTH, ssl, who);
    return 1;
}

/* Both sides, then one byte from the server, so that the client hears an alert. */
static void
pair_run(struct pair *p)
{
    char byte;
    int done = 0, n;

    for (int turn = 0; turn < 20 && done != 2; turn++)
        done = step(p->client, &p->client_err, "client") +
               step(p->server, &p->server_err, "server");
    assert_int_equal(done, 2);
    if (p->server_err.code == 0 && p->client_err.code == 0) {
        assert_int_equal(SSL_write(p->server, "x", 1), 1);
    }
    if (p->client_err.code == 0) {
        n = SSL_read(p->client, &byte, 1);
        if (n != 1)
            tls_error(&p->client_err, CE_EAUTH, p->client, "client");
    }
}

static void
pair_close(struct pair *p)
{
    SSL_free(p->server);
    SSL_free(p->client);
    SSL_CTX_free(p->server_ctx);
    SSL_CTX_free(p->client_ctx);
    close(p->fds[0]);
    close(p->fds[1]);
}

static void
test_handshake(void **state)
{
    static const struct {
        const char *client, *host, *name;
    } cases[] = {
        { "edge", "localhost", "cecollm://acme/7" },
        { "dns", "127.0.0.1", "edge-8" },
        { "bare", "::1", "bare" },
    };
    uint8_t first[32];

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct tls_peer at_server, at_client;
        struct err err;
        struct pair p;

        pair_open(&p, files("ca", "server"), files("ca", cases[i].client), cases[i].host);
        assert_int_equal(tls_peer_get(p.server, &at_server, &err), CE_EAUTH);
        pair_run(&p);
        assert_string_equal(p.client_err.text, "");
        assert_string_equal(p.server_err.text, "");
        assert_int_equal(tls_peer_get(p.server, &at_server, &err), 0);
        assert_int_equal(tls_peer_get(p.client, &at_client, &err), 0);
        assert_string_equal(at_server.name, cases[i].name);
        assert_string_equal(at_client.name, "localhost");
        assert_int_equal(SSL_version(p.client), TLS1_3_VERSION);
        assert_false(SSL_session_reused(p.client));
        if (i == 0)
            memcpy(first, at_server.sha256, 32);
        else
            assert_memory_not_equal(first, at_server.sha256, 32);
        pair_close(&p);
    }
}

static void
expect_refusal(struct tls_files server, struct tls_files client, const char *host,
               const char *at_server, const char *at_client)
{
    struct pair p;

    pair_open(&p, server, client, host);
    pair_run(&p);
    if (at_server != NULL)
        assert_string_equal(p.server_err.text, at_server);
    assert_string_equal(p.client_err.text, at_client);
    pair_close(&p);
}

static void
test_refused_peers(void **state)
{
    struct tls_files server = files("ca", "server"), edge = files("ca", "edge");

    (void)state;
    expect_refusal(server, edge, "example.org", NULL,
                   "client: certificate refused: hostname mismatch");
    expect_refusal(server, edge, "127.0.0.2", NULL,
                   "client: certificate refused: IP address mismatch");
    /* the client trusts another authority */
    expect_refusal(server, files("other", "edge"), "localhost", NULL,
                   "client: certificate refused: unable to get local issuer certificate");
    /* the server does: the client hears of it after its own handshake */
    expect_refusal(server, files("ca", "stranger"), "localhost",
                   "server: certificate refused: unable to get local issuer certificate",
                   "client: tlsv1 alert unknown ca");
}

static SSL_CTX *
plain_client(const char *ca)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());

    assert_non_null(ctx);
    assert_int_equal(SSL_CTX_load_verify_locations(ctx, ca, NULL), 1);
    return ctx;
}

/* Clients of another make: without a certificate, another ALPN or TLS version,
 * an expired certificate. */
static void
test_refused_strangers(void **state)
{
    static const struct {
        const char *cert, *alpn;
        int version;
        const char *error;
    } cases[] = {
        { NULL, "\x09" TLS_ALPN, TLS1_3_VERSION,
          "server: peer did not return a certificate" },
        { "old", "\x09" TLS_ALPN, TLS1_3_VERSION,
          "server: certificate refused: certificate has expired" },
        { "edge", "\x02h2", TLS1_3_VERSION, "server: no application protocol" },
        { "edge", "\x09" TLS_ALPN, TLS1_2_VERSION, "server: unsupported protocol" },
    };

    (void)state;
    for (int i = 0; i < 4; i++) {
        struct pair p;
        struct tls_files f = files("ca", cases[i].cert != NULL ? cases[i].cert : "edge");
        SSL_CTX *ctx = plain_client(f.ca);

        pair_open(&p, files("ca", "server"), files("ca", "edge"), "localhost");
        if (cases[i].cert != NULL) {
            SSL_CTX_use_certificate_file(ctx, f.cert, SSL_FILETYPE_PEM);
            SSL_CTX_use_PrivateKey_file(ctx, f.key, SSL_FILETYPE_PEM);
        }
        SSL_CTX_set_max_proto_version(ctx, cases[i].version);
        SSL_CTX_set_alpn_protos(ctx, (const unsigned char *)cases[i].alpn,
                                (unsigned)strlen(cases[i].alpn));
        SSL_free(p.client);
        p.client = SSL_new(ctx);
        SSL_set_connect_state(p.client);
        SSL_set_fd(p.client, p.fds[1]);
        pair_run(&p);
        assert_string_equal(p.server_err.text, cases[i].error);
        pair_close(&p);
        SSL_CTX_free(ctx);
    }
}

/* Without any ALPN the handshake works: tls_peer_get has to refuse. */
static void
test_no_alpn(void **state)
{
    struct tls_files f = files("ca", "edge");
    SSL_CTX *ctx = plain_client(f.ca);
    struct tls_peer peer;
    struct err err;
    struct pair p;

    (void)state;
    pair_open(&p, files("ca", "server"), f, "localhost");
    SSL_CTX_use_certificate_file(ctx, f.cert, SSL_FILETYPE_PEM);
    SSL_CTX_use_PrivateKey_file(ctx, f.key, SSL_FILETYPE_PEM);
    SSL_free(p.client);
    p.client = SSL_new(ctx);
    SSL_set_connect_state(p.client);
    SSL_set_fd(p.client, p.fds[1]);
    pair_run(&p);
    assert_int_equal(p.server_err.code, 0);
    assert_int_equal(tls_peer_get(p.server, &peer, &err), CE_EPROTO);
    assert_string_equal(err.text, "the peer does not speak cecollm/1 (ALPN)");
    pair_close(&p);
    SSL_CTX_free(ctx);
}

static void
expect_error(struct tls_files f, int code, const char *path, const char *what)
{
    SSL_CTX *ctx;
    struct err err;
    char text[400];

    assert_int_equal(tls_client_new(&ctx, &f, &err), code);
    assert_null(ctx);
    snprintf(text, sizeof(text), "%s%s", path, what);
    assert_memory_equal(err.text, text, strlen(text));
    assert_int_equal(tls_server_new(&ctx, &f, NULL), code);
    assert_null(ctx);
    assert_int_equal(ERR_peek_error(), 0);
}

static void
test_bad_files(void **state)
{
    struct tls_files good = files("ca", "edge"), f;
    char text[200];

    (void)state;
    f = good;
    f.ca = "no/such.crt";
    expect_error(f, CE_EIO, f.ca, ": CA: No such file or directory");
    f.ca = NULL;
    expect_error(f, CE_EINVAL, "", "no CA file is set");
    f.ca = in_dir("empty");
    expect_error(f, CE_EFORMAT, f.ca, ": holds no CA certificate (PEM)");
    f.ca = in_dir("garbage");
    expect_error(f, CE_EFORMAT, f.ca, ": holds no CA certificate (PEM)");

    f = good;
    f.cert = in_dir("garbage");
    expect_error(f, CE_EFORMAT, f.cert, ": holds no certificate (PEM)");
    f.cert = dir;
    expect_error(f, CE_EFORMAT, f.cert, ": holds no certificate (PEM)");

    f = good;
    f.key = in_dir("no.key");
    expect_error(f, CE_EIO, f.key, ": private key: No such file or directory");
    f.key = good.cert;
    expect_error(f, CE_EFORMAT, f.key, ": holds no unencrypted private key (PEM)");
    f.key = files("ca", "server").key;
    snprintf(text, sizeof(text), ": is not the key of %s", f.cert);
    expect_error(f, CE_EAUTH, f.key, text);

    f = files("ca", "old");
    expect_error(f, CE_EAUTH, f.cert, ": certificate expired on 20");
    f = files("ca", "early");
    expect_error(f, CE_EAUTH, f.cert, ": certificate is not valid before 20");
}

/* An encrypted key is an error, never a question on the terminal. */
static void
test_encrypted_key(void **state)
{
    struct tls_files f = files("ca", "edge");
    EVP_PKEY *key;
    FILE *in = fopen(f.key, "r"), *out = fopen(in_dir("locked.key"), "w");

    (void)state;
    assert_true(in != NULL && out != NULL);
    key = PEM_read_PrivateKey(in, NULL, NULL, NULL);
    assert_int_equal(PEM_write_PrivateKey(out, key, EVP_aes_128_cbc(),
                                          (const unsigned char *)"secret", 6, NULL, NULL),
                     1);
    fclose(in);
    fclose(out);
    EVP_PKEY_free(key);
    f.key = in_dir("locked.key");
    expect_error(f, CE_EFORMAT, f.key, ": holds no unencrypted private key (PEM)");
}

static void
test_no_host(void **state)
{
    struct tls_files f = files("ca", "edge");
    SSL_CTX *ctx;
    struct err err;
    SSL *ssl;

    (void)state;
    assert_int_equal(tls_client_new(&ctx, &f, &err), 0);
    assert_int_equal(tls_client_ssl(&ssl, ctx, "", &err), CE_EINVAL);
    assert_null(ssl);
    SSL_CTX_free(ctx);
}

/* NAME.crl of an authority, with one revoked serial; until: its next list, in s. */
static void
make_crl(const char *ca, const char *revoked, long until, const char *name)
{
    FILE *cert = fopen(files(ca, ca).cert, "r"), *key = fopen(files(ca, ca).key, "r");
    X509 *issuer = PEM_read_X509(cert, NULL, NULL, NULL), *bad;
    EVP_PKEY *pkey = PEM_read_PrivateKey(key, NULL, NULL, NULL);
    X509_CRL *crl = X509_CRL_new();
    X509_REVOKED *entry = X509_REVOKED_new();
    ASN1_TIME *now = X509_gmtime_adj(NULL, -2 * DAY),
              *next = X509_gmtime_adj(NULL, until);
    FILE *f = fopen(files(ca, revoked).cert, "r"), *out = fopen(in_dir(name), "w");

    assert_true(issuer && pkey && crl && entry && f && out);
    bad = PEM_read_X509(f, NULL, NULL, NULL);
    X509_CRL_set_version(crl, 1);
    X509_CRL_set_issuer_name(crl, X509_get_subject_name(issuer));
    X509_CRL_set1_lastUpdate(crl, now);
    X509_CRL_set1_nextUpdate(crl, next);
    X509_REVOKED_set_serialNumber(entry, X509_get_serialNumber(bad));
    X509_REVOKED_set_revocationDate(entry, now);
    X509_CRL_add0_revoked(crl, entry);
    assert_true(X509_CRL_sign(crl, pkey, EVP_sha256()) > 0);
    PEM_write_X509_CRL(out, crl);
    fclose(cert);
    fclose(key);
    fclose(f);
    fclose(out);
    ASN1_TIME_free(now);
    ASN1_TIME_free(next);
    X509_free(bad);
    X509_free(issuer);
    EVP_PKEY_free(pkey);
    X509_CRL_free(crl);
}

static void
test_revocation(void **state)
{
    struct tls_files server = files("ca", "server"), f = server;
    struct pair p;

    (void)state;
    make_crl("ca", "dns", DAY, "good.crl");
    make_crl("ca", "dns", -DAY, "late.crl");
    make_crl("other", "dns", DAY, "other.crl");
    server.crl = in_dir("good.crl");
    pair_open(&p, server, files("ca", "edge"), "localhost");
    pair_run(&p);
    assert_int_equal(p.server_err.code, 0);
    pair_close(&p);
    expect_refusal(server, files("ca", "dns"), "localhost",
                   "server: certificate refused: certificate revoked",
                   "client: sslv3 alert certificate revoked");
    f.crl = in_dir("late.crl");
    expect_error(f, CE_EAUTH, f.crl, ": the revocation list was to be renewed on 20");
    f.crl = in_dir("other.crl");
    expect_error(f, CE_EAUTH, f.crl, ": holds a revocation list that no authority in ");
    f.crl = in_dir("garbage");
    expect_error(f, CE_EFORMAT, f.crl, ": holds no revocation list (PEM)");
    f.crl = in_dir("no.crl");
    expect_error(f, CE_EIO, f.crl, ": revocation list: No such file");
}

static void
count_problem(void *arg, enum tls_file which, const struct err *err)
{
    int *seen = arg;

    assert_true(err->code < 0 && err->text[0] != '\0');
    *seen |= 1 << which;
}

static void
test_all_problems(void **state)
{
    struct tls_files f = files("ca", "edge");
    char until[40];
    SSL_CTX *ctx;
    int seen = 0;

    (void)state;
    assert_int_equal(tls_files_check(&f, count_problem, &seen), 0);
    assert_int_equal(seen, 0);
    f.ca = "no/such.crt";
    f.crl = in_dir("garbage");
    f.key = files("ca", "server").key;
    assert_int_equal(tls_files_check(&f, count_problem, &seen), CE_EIO);
    assert_int_equal(seen, 1 << TLS_FILE_CA | 1 << TLS_FILE_KEY | 1 << TLS_FILE_CRL);
    f = files("ca", "edge");
    assert_int_equal(tls_server_new(&ctx, &f, NULL), 0);
    tls_expiry(ctx, until);
    assert_memory_equal(until, "20", 2);
    assert_non_null(strstr(until, " UTC"));
    SSL_CTX_free(ctx);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_handshake),         cmocka_unit_test(test_refused_peers),
        cmocka_unit_test(test_refused_strangers), cmocka_unit_test(test_no_alpn),
        cmocka_unit_test(test_bad_files),         cmocka_unit_test(test_encrypted_key),
        cmocka_unit_test(test_no_host),           cmocka_unit_test(test_revocation),
        cmocka_unit_test(test_all_problems),
    };

    return cmocka_run_group_tests(tests, make_all, remove_all);
}
