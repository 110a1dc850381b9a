/* SPDX-License-Identifier: Apache-2.0
 * tls.h - TLS 1.3 contexts for both ends, and who the peer is. No sockets, no
 * event loop: connections belong to the caller.
 *
 * Both sides show a certificate and check the other's against one CA file; a server
 * may let clients come without one (tls_server_optional).
 * There is no resumption, so a session cannot outlive the check; no protocol
 * but ALPN "cecollm/1". A reload makes a new context and drops the old one:
 * live connections keep theirs by reference.
 *
 * TLS 1.3 lets a client finish its handshake before the server has looked at
 * the client's certificate: a refusal arrives as an alert at the first read.
 *
 * Thread: a context may be used by any thread once made; an SSL by one.
 */
#ifndef CE_COMMON_TLS_H
#define CE_COMMON_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/ssl.h>

#include "common/error.h"

#define TLS_ALPN "cecollm/1"

struct tls_files {
    const char *ca; /* PEM, one or more authorities */
    /* PEM, own certificate first, then intermediates; a client may have none: this and
     * the key NULL or empty */
    const char *cert;
    const char *key; /* PEM, not encrypted */
    const char *crl; /* PEM, revocation lists; NULL or "": revocation is not looked at */
};

enum tls_file {
    TLS_FILE_CA,
    TLS_FILE_CERT,
    TLS_FILE_KEY,
    TLS_FILE_CRL,
    TLS_N_FILES,
};

/* Make a context. On failure one line names the file and what is wrong with it:
 * missing, unreadable, not PEM, expired, not yet valid, key of another
 * certificate, revocation list that is over or that no authority of ours signed.
 * Free with SSL_CTX_free.
 *
 * With a revocation list every peer's certificate is looked up in its authority's;
 * an authority without a list has no certificate that is believed. */
int tls_server_new(SSL_CTX **out, const struct tls_files *files,
                   struct err *err) CE_MUSTCHECK;
int tls_client_new(SSL_CTX **out, const struct tls_files *files,
                   struct err *err) CE_MUSTCHECK;

/* Look at every file, also behind the first that is wrong; `problem` is called for
 * each of those. Returns 0 when there is none. */
int tls_files_check(const struct tls_files *files,
                    void (*problem)(void *arg, enum tls_file which,
                                    const struct err *err),
                    void *arg) CE_MUSTCHECK;

/* When the context's own certificate ends, as "2027-01-31 12:00:00 UTC". */
void tls_expiry(const SSL_CTX *ctx, char text[40]);

/* Clients need not show a certificate; one that they show is checked as ever. For a
 * server's context that no connection uses yet. */
void tls_server_optional(SSL_CTX *ctx);

/* A new SSL for a client connection to `host`, a DNS name or an IP address (v6
 * without brackets): its certificate must be for exactly that. */
int tls_client_ssl(SSL **out, SSL_CTX *ctx, const char *host,
                   struct err *err) CE_MUSTCHECK;

#define TLS_SANS_SIZE 2048

struct tls_peer {
    bool has_cert;          /* false: a client without one; all else is zero */
    char name[256];         /* first SAN URI, else first SAN DNS, else CN; else "" */
    uint8_t sha256[32];     /* of the certificate (DER); equal means the same one */
    uint8_t key_sha256[32]; /* of its SubjectPublicKeyInfo (DER): a new certificate of
                             * the same key has the same */
    /* Every name by which it may be known: 'U' and a SAN URI, 'D' and a SAN DNS (or
     * the CN where there is no SAN of either kind), each ended by NUL, an empty one
     * after the last. What does not fit is left out. */
    char sans[TLS_SANS_SIZE];
};

/* After the handshake: check that the certificate was verified and the ALPN
 * agreed on, and say who it is. CE_EAUTH when not; then close. No certificate is
 * CE_EAUTH unless the context let it pass (tls_server_optional). */
int tls_peer_get(SSL *ssl, struct tls_peer *out, struct err *err) CE_MUSTCHECK;

/* Turn the thread's OpenSSL error queue into *err: `what`, then the reason
 * ("certificate verify failed: unable to get local issuer certificate"). `ssl`
 * may be NULL. Empties the queue; returns code. */
int tls_error(struct err *err, int code, const SSL *ssl, const char *what);

#endif
