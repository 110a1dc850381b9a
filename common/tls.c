/* SPDX-License-Identifier: Apache-2.0
 * tls.c - OpenSSL 3 contexts.
 *
 * OpenSSL's own errors name neither the file nor the cause an operator can act
 * on ("PEM lib"), so files are opened and looked at here first. Idle
 * connections give their buffers back (SSL_MODE_RELEASE_BUFFERS: 14 instead of
 * 47 KiB each). Resumption is off on both sides: a resumed session would skip
 * the certificate checks of today.
 */
#include "common/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

static const unsigned char alpn_wire[] = "\x09" TLS_ALPN;
#define ALPN_WIRE_LEN (sizeof(alpn_wire) - 1)

int
tls_error(struct err *err, int code, const SSL *ssl, const char *what)
{
    unsigned long e = ERR_peek_error();
    const char *reason = e != 0 ? ERR_reason_error_string(e) : NULL;
    long verify = ssl != NULL ? SSL_get_verify_result(ssl) : X509_V_OK;

    if (e != 0 && reason == NULL) /* a system error: the number is errno */
        reason = strerror(ERR_GET_REASON(e));
    if (verify != X509_V_OK)
        err_set(err, code, "%s: certificate refused: %s", what,
                X509_verify_cert_error_string(verify));
    else
        err_set(err, code, "%s: %s", what, reason != NULL ? reason : "connection lost");
    ERR_clear_error();
    return code;
}

/* Can the file be opened at all? */
static int
check_readable(const char *kind, const char *path, struct err *err)
{
    FILE *f;

    if (path == NULL || path[0] == '\0')
        return err_set(err, CE_EINVAL, "no %s file is set", kind);
    f = fopen(path, "re");
    if (f == NULL)
        return err_set(err, CE_EIO, "%s: %s: %s", path, kind, strerror(errno));
    fclose(f);
    return CE_OK;
}

static void
date_text(const ASN1_TIME *time, char text[40])
{
    struct tm tm;

    snprintf(text, 40, "?");
    if (time != NULL && ASN1_TIME_to_tm(time, &tm))
        strftime(text, 40, "%Y-%m-%d %H:%M:%S UTC", &tm);
}

static int
check_dates(const X509 *cert, const char *path, struct err *err)
{
    const ASN1_TIME *from = X509_get0_notBefore(cert);
    const ASN1_TIME *until = X509_get0_notAfter(cert);
    const char *what;
    char date[40];

    if (X509_cmp_current_time(until) <= 0) {
        what = "certificate expired on";
        date_text(until, date);
    } else if (X509_cmp_current_time(from) > 0) {
        what = "certificate is not valid before";
        date_text(from, date);
    } else {
        return CE_OK;
    }
    return err_set(err, CE_EAUTH, "%s: %s %s", path, what, date);
}

static int
no_password(char *buf, int size, int rwflag, void *arg)
{
    (void)buf;
    (void)size;
    (void)rwflag;
    (void)arg;
    return -1; /* never ask a terminal */
}

static int
load_ca(SSL_CTX *ctx, const struct tls_files *f, struct err *err)
{
    int rc = check_readable("CA", f->ca, err);

    if (rc == CE_OK && SSL_CTX_load_verify_locations(ctx, f->ca, NULL) != 1)
        rc = err_set(err, CE_EFORMAT, "%s: holds no CA certificate (PEM)", f->ca);
    return rc;
}

static int
load_cert(SSL_CTX *ctx, const struct tls_files *f, struct err *err)
{
    int rc = check_readable("certificate", f->cert, err);

    if (rc != CE_OK)
        return rc;
    if (SSL_CTX_use_certificate_chain_file(ctx, f->cert) != 1)
        return err_set(err, CE_EFORMAT, "%s: holds no certificate (PEM)", f->cert);
    return check_dates(SSL_CTX_get0_certificate(ctx), f->cert, err);
}

/* After the certificate. */
static int
load_key(SSL_CTX *ctx, const struct tls_files *f, struct err *err)
{
    int rc = check_readable("private key", f->key, err), reason;

    if (rc != CE_OK)
        return rc;
    SSL_CTX_set_default_passwd_cb(ctx, no_password);
    if (SSL_CTX_use_PrivateKey_file(ctx, f->key, SSL_FILETYPE_PEM) != 1) {
        reason = ERR_GET_REASON(ERR_peek_last_error());
        if (reason != X509_R_KEY_VALUES_MISMATCH && reason != X509_R_KEY_TYPE_MISMATCH)
            return err_set(err, CE_EFORMAT, "%s: holds no unencrypted private key (PEM)",
                           f->key);
    } else if (SSL_CTX_get0_certificate(ctx) == NULL ||
               SSL_CTX_check_private_key(ctx) == 1) {
        return CE_OK; /* without a certificate there is nothing to compare with */
    }
    return err_set(err, CE_EAUTH, "%s: is not the key of %s", f->key, f->cert);
}

/* Did one of our authorities sign the list? */
static int
crl_is_ours(X509_STORE *store, X509_CRL *crl)
{
    STACK_OF(X509_OBJECT) *objects = X509_STORE_get0_objects(store);

    for (int i = 0; i < sk_X509_OBJECT_num(objects); i++) {
        X509 *ca = X509_OBJECT_get0_X509(sk_X509_OBJECT_value(objects, i));

        if (ca != NULL &&
            X509_NAME_cmp(X509_get_subject_name(ca), X509_CRL_get_issuer(crl)) == 0 &&
            X509_CRL_verify(crl, X509_get0_pubkey(ca)) == 1)
            return 1;
    }
    return 0;
}

static int
add_crl(X509_STORE *store, const struct tls_files *f, X509_CRL *crl, struct err *err)
{
    const ASN1_TIME *until = X509_CRL_get0_nextUpdate(crl);
    char date[40];

    if (!crl_is_ours(store, crl))
        return err_set(err, CE_EAUTH,
                       "%s: holds a revocation list that no authority in %s signed",
                       f->crl, f->ca);
    if (until != NULL && X509_cmp_current_time(until) <= 0) {
        date_text(until, date);
        return err_set(err, CE_EAUTH, "%s: the revocation list was to be renewed on %s",
                       f->crl, date);
    }
    if (X509_STORE_add_crl(store, crl) != 1)
        return err_set(err, CE_ENOMEM, "%s: no memory", f->crl);
    return CE_OK;
}

/* After the authorities. */
static int
load_crl(SSL_CTX *ctx, const struct tls_files *f, struct err *err)
{
    X509_STORE *store = SSL_CTX_get_cert_store(ctx);
    X509_CRL *crl;
    BIO *file;
    int rc, n = 0;

    if (f->crl == NULL || f->crl[0] == '\0')
        return CE_OK;
    rc = check_readable("revocation list", f->crl, err);
    if (rc != CE_OK)
        return rc;
    file = BIO_new_file(f->crl, "r");
    if (file == NULL)
        return tls_error(err, CE_EIO, NULL, f->crl);
    while (rc == CE_OK &&
           (crl = PEM_read_bio_X509_CRL(file, NULL, no_password, NULL)) != NULL) {
        rc = add_crl(store, f, crl, err);
        X509_CRL_free(crl);
        n++;
    }
    if (rc == CE_OK &&
        (n == 0 || ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE))
        rc = err_set(err, CE_EFORMAT, "%s: %s", f->crl,
                     n == 0 ? "holds no revocation list (PEM)" : "is damaged");
    BIO_free(file);
    if (rc == CE_OK)
        X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);
    return rc;
}

/* In this order: the later ones look at what the earlier ones loaded. */
static int (*const loaders[TLS_N_FILES])(SSL_CTX *, const struct tls_files *,
                                         struct err *) = {
    [TLS_FILE_CA] = load_ca,
    [TLS_FILE_CERT] = load_cert,
    [TLS_FILE_KEY] = load_key,
    [TLS_FILE_CRL] = load_crl,
};

static bool
has_text(const char *s)
{
    return s != NULL && s[0] != '\0';
}

static int
load_files(SSL_CTX *ctx, const struct tls_files *f, bool is_client, struct err *err)
{
    bool own = !is_client || has_text(f->cert) || has_text(f->key);
    int rc = CE_OK;

    for (int i = 0; i < TLS_N_FILES && rc == CE_OK; i++) {
        if (!own && (i == TLS_FILE_CERT || i == TLS_FILE_KEY))
            continue;
        ERR_clear_error();
        rc = loaders[i](ctx, f, err);
    }
    ERR_clear_error();
    return rc;
}

int
tls_files_check(const struct tls_files *files,
                void (*problem)(void *arg, enum tls_file which, const struct err *err),
                void *arg)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    struct err err = { 0 };
    int first = CE_OK;

    if (ctx == NULL)
        return tls_error(NULL, CE_ENOMEM, NULL, "TLS context");
    for (int i = 0; i < TLS_N_FILES; i++) {
        int rc;

        ERR_clear_error();
        rc = loaders[i](ctx, files, &err);
        if (rc == CE_OK)
            continue;
        problem(arg, (enum tls_file)i, &err);
        if (first == CE_OK)
            first = rc;
    }
    ERR_clear_error();
    SSL_CTX_free(ctx);
    return first;
}

void
tls_expiry(const SSL_CTX *ctx, char text[40])
{
    const X509 *cert = SSL_CTX_get0_certificate(ctx);

    date_text(cert != NULL ? X509_get0_notAfter(cert) : NULL, text);
}

/* What both ends have in common. */
static int
context_new(SSL_CTX **out, bool is_client, const struct tls_files *files, struct err *err)
{
    SSL_CTX *ctx = SSL_CTX_new(is_client ? TLS_client_method() : TLS_server_method());
    int rc;

    *out = NULL;
    if (ctx == NULL)
        return tls_error(err, CE_ENOMEM, NULL, "TLS context");
    if (SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) != 1) {
        rc = tls_error(err, CE_EUNSUPPORTED, NULL, "TLS 1.3");
        SSL_CTX_free(ctx);
        return rc;
    }
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                              SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_NO_AUTO_CHAIN);
    rc = load_files(ctx, files, is_client, err);
    if (rc != CE_OK) {
        SSL_CTX_free(ctx);
        return rc;
    }
    *out = ctx;
    return CE_OK;
}

static int
select_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len,
            const unsigned char *offered, unsigned int offered_len, void *arg)
{
    unsigned char *chosen;

    (void)ssl;
    (void)arg;
    if (SSL_select_next_proto(&chosen, out_len, alpn_wire, ALPN_WIRE_LEN, offered,
                              offered_len) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

int
tls_server_new(SSL_CTX **out, const struct tls_files *files, struct err *err)
{
    static const unsigned char context_id[] = "cecollm";
    STACK_OF(X509_NAME) * names;
    int rc = context_new(out, false, files, err);

    if (rc != CE_OK)
        return rc;
    names = SSL_load_client_CA_file(files->ca); /* tells clients whom we trust */
    if (names != NULL)
        SSL_CTX_set_client_CA_list(*out, names);
    SSL_CTX_set_session_id_context(*out, context_id, sizeof(context_id) - 1);
    SSL_CTX_set_alpn_select_cb(*out, select_alpn, NULL);
    SSL_CTX_set_verify(*out, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return CE_OK;
}

int
tls_client_new(SSL_CTX **out, const struct tls_files *files, struct err *err)
{
    int rc = context_new(out, true, files, err);

    if (rc != CE_OK)
        return rc;
    SSL_CTX_set_verify(*out, SSL_VERIFY_PEER, NULL);
    if (SSL_CTX_set_alpn_protos(*out, alpn_wire, ALPN_WIRE_LEN) != 0) {
        SSL_CTX_free(*out);
        *out = NULL;
        return tls_error(err, CE_ENOMEM, NULL, "ALPN");
    }
    return CE_OK;
}

void
tls_server_optional(SSL_CTX *ctx)
{
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
}

static int
is_address(const char *host)
{
    unsigned char bin[16];

    return inet_pton(AF_INET, host, bin) == 1 || inet_pton(AF_INET6, host, bin) == 1;
}

int
tls_client_ssl(SSL **out, SSL_CTX *ctx, const char *host, struct err *err)
{
    SSL *ssl = SSL_new(ctx);
    int ok;

    *out = NULL;
    if (ssl == NULL)
        return tls_error(err, CE_ENOMEM, NULL, host);
    if (host[0] == '\0') {
        SSL_free(ssl);
        return err_set(err, CE_EINVAL, "no host name to check the server against");
    }
    if (is_address(host)) {
        ok = X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host);
    } else {
        SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
        ok = SSL_set1_host(ssl, host) && SSL_set_tlsext_host_name(ssl, host);
    }
    if (!ok) {
        SSL_free(ssl);
        return tls_error(err, CE_EINVAL, NULL, host);
    }
    SSL_set_connect_state(ssl);
    *out = ssl;
    return CE_OK;
}

/* ---- who is it ---- */

/* Copy a name unless it holds a NUL or is too long: a prefix is another name. */
static int
copy_name(char *out, size_t size, const ASN1_STRING *s)
{
    const unsigned char *data = ASN1_STRING_get0_data(s);
    int len = ASN1_STRING_length(s);

    if (len <= 0 || (size_t)len >= size || memchr(data, 0, (size_t)len) != NULL)
        return 0;
    memcpy(out, data, (size_t)len);
    out[len] = '\0';
    return 1;
}

static int
copy_san(char *out, size_t size, const GENERAL_NAMES *names, int type)
{
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);

        if (name->type == type && copy_name(out, size, name->d.ia5))
            return 1;
    }
    return 0;
}

static void
peer_name(const X509 *cert, char *out, size_t size)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    const X509_NAME *subject = X509_get_subject_name(cert);
    int at, found = 0;

    out[0] = '\0';
    if (names != NULL)
        found =
            copy_san(out, size, names, GEN_URI) || copy_san(out, size, names, GEN_DNS);
    GENERAL_NAMES_free(names);
    at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    if (!found && at >= 0)
        copy_name(out, size, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
    ERR_clear_error();
}

/* Add one to peer->sans, if it fits with the empty one behind it. */
static void
add_san(struct tls_peer *peer, size_t *used, char kind, const ASN1_STRING *s)
{
    char text[256];
    size_t len;

    if (!copy_name(text, sizeof(text), s))
        return;
    len = strlen(text);
    if (*used + len + 3 > sizeof(peer->sans))
        return;
    peer->sans[*used] = kind;
    memcpy(peer->sans + *used + 1, text, len + 1);
    *used += len + 2;
}

static void
peer_sans(const X509 *cert, struct tls_peer *peer)
{
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    const X509_NAME *subject = X509_get_subject_name(cert);
    int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    size_t used = 0;
    bool any = false;

    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);

        if (name->type != GEN_URI && name->type != GEN_DNS)
            continue;
        any = true;
        add_san(peer, &used, name->type == GEN_URI ? 'U' : 'D', name->d.ia5);
    }
    GENERAL_NAMES_free(names);
    if (!any && at >= 0)
        add_san(peer, &used, 'D',
                X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
    ERR_clear_error();
}

/* SHA-256 of the SubjectPublicKeyInfo. */
static int
key_digest(const X509 *cert, uint8_t out[32])
{
    unsigned char *der = NULL;
    unsigned int len;
    int n = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(cert), &der), ok;

    ok = n > 0 && EVP_Digest(der, (size_t)n, out, &len, EVP_sha256(), NULL) == 1;
    OPENSSL_free(der);
    return ok;
}

int
tls_peer_get(SSL *ssl, struct tls_peer *out, struct err *err)
{
    X509 *cert = SSL_get1_peer_certificate(ssl);
    const unsigned char *alpn;
    unsigned int alpn_len, digest_len;
    long verify = SSL_get_verify_result(ssl);
    int rc = CE_OK;

    memset(out, 0, sizeof(*out));
    if (cert == NULL && (SSL_is_server(ssl) == 0 ||
                         SSL_get_verify_mode(ssl) & SSL_VERIFY_FAIL_IF_NO_PEER_CERT))
        return err_set(err, CE_EAUTH, "the peer showed no certificate");
    SSL_get0_alpn_selected(ssl, &alpn, &alpn_len);
    if (cert != NULL && verify != X509_V_OK)
        rc = err_set(err, CE_EAUTH, "the peer's certificate: %s",
                     X509_verify_cert_error_string(verify));
    else if (alpn_len != strlen(TLS_ALPN) || memcmp(alpn, TLS_ALPN, alpn_len) != 0)
        rc = err_set(err, CE_EPROTO, "the peer does not speak " TLS_ALPN " (ALPN)");
    else if (cert == NULL)
        return CE_OK;
    else if (X509_digest(cert, EVP_sha256(), out->sha256, &digest_len) != 1 ||
             !key_digest(cert, out->key_sha256))
        rc = tls_error(err, CE_EINTERNAL, NULL, "certificate digest");
    if (rc == CE_OK) {
        out->has_cert = true;
        peer_name(cert, out->name, sizeof(out->name));
        peer_sans(cert, out);
    }
    X509_free(cert);
    return rc;
}
