/* SPDX-License-Identifier: Apache-2.0
 * server_conf.c - the key table of cecollm-cloudd; see server_conf.h.
 */
#include "server/server_conf.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "server/content.h"

static const char *const certs[] = { "required", "optional", NULL };

#define FIELD(name) offsetof(struct server_conf, name)

static const char *const eager_names[] = { "never", "prompt", "always", NULL };

/* clang-format off */
static const struct conffile_key keys[] = {
    { "listen", CONFFILE_STRING, FIELD(listen), "127.0.0.1:7443",
      .help = "Address and port to accept agents on: host:port, [v6]:port or *:port. "
              "Port 0 takes any free one." },
    { "port_file", CONFFILE_STRING, FIELD(port_file), "",
      .help = "Write the port in use to this file once agents are accepted." },
    { "node", CONFFILE_STRING, FIELD(node), "",
      .help = "Where agents take their upload channel, when a load balancer stands before "
              "several servers. A bare name: to the balancer again, asking TLS for that "
              "name. HOST:PORT: there. Empty: the address they came by." },
    { "ca", CONFFILE_STRING, FIELD(ca), "",
      .help = "Certificates (PEM) of the authorities that agents' certificates are "
              "checked against. Required." },
    { "cert", CONFFILE_STRING, FIELD(cert), "",
      .help = "This server's certificate (PEM), followed by intermediate ones. Required." },
    { "key", CONFFILE_STRING, FIELD(key), "",
      .help = "The certificate's private key (PEM). Required." },
    { "crl", CONFFILE_STRING, FIELD(crl), "",
      .help = "Lists of revoked certificates (PEM), one of each authority in ca. Empty: "
              "revocation is not looked at." },
    { "client_certs", CONFFILE_ENUM, FIELD(client_certs), "required", .choices = certs,
      .help = "Must agents show a certificate? optional: a token of a tenant may do "
              "instead; certificates that are shown are checked as ever." },
    { "tenants", CONFFILE_STRING, FIELD(tenants), "",
      .help = "File that says who is which tenant, what each must show and may have; see "
              "cecollm-tenants(5). SIGHUP reads it again. Empty: the name of each "
              "certificate is a tenant of its own, without limits." },
    { "max_connections", CONFFILE_INT, FIELD(max_connections), "2048",
      .min = 2, .max = 1000000,
      .help = "Connections in all; a session has two." },
    { "max_connections_per_address", CONFFILE_INT, FIELD(max_connections_per_address),
      "256", .min = 2, .max = 1000000,
      .help = "Connections from one IP address." },
    { "max_sessions", CONFFILE_INT, FIELD(max_sessions), "1024", .min = 1, .max = 500000,
      .help = "Sessions in all." },
    { "max_output", CONFFILE_SIZE, FIELD(max_output), "1M", .min = 65536, .max = 1 << 30,
      .help = "Bytes kept for a peer that does not read; past them its connection is "
              "closed." },
    { "handshake_timeout", CONFFILE_DURATION, FIELD(handshake_timeout_us), "10s",
      .min = 100e3, .max = 600e6,
      .help = "From connecting to the first frame, TLS handshake included." },
    { "idle_timeout", CONFFILE_DURATION, FIELD(idle_timeout_us), "2min",
      .min = 100e3, .max = 86400e6,
      .help = "A channel on which no frame came for so long is closed. Agents are told, "
              "and ping." },
    { "peer_timeout", CONFFILE_DURATION, FIELD(peer_timeout_us), "1min",
      .min = 0, .max = 86400e6,
      .help = "A connection whose other end acknowledges nothing for so long, neither "
              "data nor probes, is closed. 0: as long as the system waits, hours." },
    { "drain_timeout", CONFFILE_DURATION, FIELD(drain_timeout_us), "30s",
      .min = 0, .max = 86400e6,
      .help = "After SIGTERM: how long running sequences may take to finish." },
    { "user", CONFFILE_STRING, FIELD(user), "",
      .help = "Started as root, become this user once ports are bound and keys are read. "
              "SIGHUP reads the keys again, as this user. Empty: stay." },
    { "group", CONFFILE_STRING, FIELD(group), "",
      .help = "And this group. Empty: the user's own." },
    { "core_dumps", CONFFILE_BOOL, FIELD(core_dumps), "no",
      .help = "Allow core dumps and debuggers, which show private keys and what agents "
              "uploaded." },
    { "model", CONFFILE_STRING, FIELD(model), "",
      .help = "The model, a GGUF file: whole, or the cloud part that cecollm-model split "
              "makes. Required." },
    { "exits", CONFFILE_STRING, FIELD(exits), "",
      .help = "The side file with the exit heads, read for the layer of the first exit. "
              "Empty: the file beside the model, if there is one. none: no file." },
    { "layer_from", CONFFILE_INT, FIELD(layer_from), "0", .min = 0, .max = 4096,
      .help = "First block to hold; agents may upload states after this many blocks or "
              "more. 0: the first exit's layer, or the first block in the file if that "
              "is later." },
    { "whole_model", CONFFILE_BOOL, FIELD(whole_model), "no",
      .help = "Hold all blocks and the embeddings and offer GENERATE, so that agents may "
              "leave whole answers to this server." },
    { "threads", CONFFILE_INT, FIELD(threads), "0", .min = 0, .max = 1024,
      .help = "Threads that compute. 0: as many as there are cores to use." },
    { "cpu", CONFFILE_STRING, FIELD(cpu), "auto",
      .help = "Instruction set of the kernels: auto, scalar, avx2, avxvnni, avx512, neon, "
              "neon-dotprod or neon-i8mm. The results do not depend on it." },
    { "packing", CONFFILE_BOOL, FIELD(packing), "on",
      .help = "Keep the weights packed in memory, as the kernels read them. off: leave "
              "them in the model's file and pack small pieces while computing: less "
              "memory, slower, the same results." },
    { "packing_cache", CONFFILE_STRING, FIELD(packing_cache), "",
      .help = "Folder in which packed weights are kept, so that processes share one copy "
              "of them and need not pack. Only trusted users may write to it. Empty: "
              "none." },
    { "n_ctx", CONFFILE_INT, FIELD(n_ctx), "0", .min = 0, .max = 1048576,
      .help = "Most positions of a sequence. 0: the model's own." },
    { "kv_budget", CONFFILE_SIZE, FIELD(kv_budget), "4G",
      .help = "Memory for KV caches in all. When it is full, sequences that ask for "
              "nothing lose theirs, and their agents send the hidden states again when "
              "they next ask. A sequence that alone needs more ends with an error that "
              "says so. 0: no limit." },
    { "max_seqs", CONFFILE_INT, FIELD(max_seqs), "256", .min = 1, .max = 65536,
      .help = "Open sequences in all." },
    { "max_seqs_per_session", CONFFILE_INT, FIELD(max_seqs_per_session), "16",
      .min = 1, .max = 4096,
      .help = "Open sequences of one session." },
    { "window", CONFFILE_INT, FIELD(window), "1024",
      .min = CONTENT_MIN_WINDOW, .max = 65536,
      .help = "Hidden states (rows) of one sequence that may wait to be computed; agents "
              "are granted so many ahead." },
    { "states_budget", CONFFILE_SIZE, FIELD(states_budget), "1G", .min = 1 << 20,
      .max = (int64_t)1 << 44,
      .help = "Memory for hidden states of all sequences that wait to be computed. When it "
              "is full, those of sequences that ask for nothing are dropped, and their "
              "agents send them again when they next ask." },
    { "seq_idle_timeout", CONFFILE_DURATION, FIELD(seq_idle_timeout_us), "1h",
      .min = 1e6, .max = 30 * 86400e6,
      .help = "A sequence ends when nothing comes for it for so long." },
    { "step_budget_ms", CONFFILE_INT, FIELD(step_budget_ms), "50", .min = 0, .max = 60000,
      .help = "Milliseconds that one step of computing should take at most; how many rows "
              "fit is measured. Smaller: single tokens wait less for others' prompts. "
              "Larger: prompts are computed faster. Where reading the weights alone takes "
              "more than half of it, a step takes up to twice that reading. 0: no limit "
              "but step_rows." },
    { "step_rows", CONFFILE_INT, FIELD(step_rows), "512", .min = 1, .max = 16384,
      .help = "Most rows computed in one step, of all sequences together; memory for so "
              "many is taken at start." },
    { "eager", CONFFILE_ENUM, FIELD(eager), "prompt", .choices = eager_names,
      .help = "What to compute ahead of requests when nobody waits for anything. prompt: "
              "hidden states that come before a sequence's first answer, so that it comes "
              "sooner; nearly every response needs them. always: later ones too, even if "
              "they may never be asked for. never: nothing, as in the paper." },
    { "max_queued", CONFFILE_SIZE, FIELD(max_queued), "4M", .min = 65536, .max = 1 << 30,
      .help = "Bytes of one session's frames that may wait for the computing thread; past "
              "them its connections are not read for a moment." },
    { "metrics_listen", CONFFILE_STRING, FIELD(metrics_listen), "127.0.0.1:9464",
      .help = "Address and port of the pages for operators, plain HTTP: /metrics, "
              "/healthz, /readyz, /sessions and a status page at /. Port 0 takes any free "
              "one. off: no pages." },
    { "metrics_token", CONFFILE_STRING, FIELD(metrics_token), "",
      .help = "File with a token (one line of at least 16 characters) that /metrics, "
              "/sessions and the status page's figures are shown for. Empty: none is "
              "asked for." },
    { "metrics_connections", CONFFILE_INT, FIELD(metrics_connections), "32",
      .min = 1, .max = 10000,
      .help = "Connections to these pages; past them the one silent longest is closed." },
    { "metrics_tenants", CONFFILE_INT, FIELD(metrics_tenants), "64", .min = 0, .max = 1000,
      .help = "Tenants that metrics name, first come first; the others are one, \"other\"." },
    { "stall_timeout", CONFFILE_DURATION, FIELD(stall_timeout_us), "30s",
      .min = 1e6, .max = 86400e6,
      .help = "When a step takes longer, /readyz says no until it has ended, and the "
              "service manager's watchdog is not fed." },
    { "log_level", CONFFILE_ENUM, FIELD(log_level), "info", .choices = log_level_names,
      .help = "error, warn, info or debug. SIGUSR2 switches debug on and off." },
};

static const struct conffile_section sections[] = {
    { .name = "", .keys = keys, .n_keys = (int)(sizeof(keys) / sizeof(keys[0])),
      .help = "Settings of cecollm-cloudd; see cecollm.conf(5)." },
};
/* clang-format on */

const struct conffile_schema server_conf_schema = { sections, 1 };

int
server_conf_load(struct server_conf *conf, const char *path, char *const *set, int n_set,
                 struct err *err)
{
    int rc, i;

    memset(conf, 0, sizeof(*conf));
    rc = conffile_defaults(&server_conf_schema, conf, err);
    if (rc == 0 && path)
        rc = conffile_load(&server_conf_schema, conf, path, err);
    for (i = 0; rc == 0 && i < n_set; i++)
        rc = conffile_set(&server_conf_schema, conf, set[i], err);
    if (rc < 0)
        server_conf_free(conf);
    return rc;
}

const char *const server_conf_required[] = {
    "model", "ca", "cert", "key", "listen", NULL
};

const char *
server_conf_text(const struct server_conf *conf, const char *key)
{
    size_t i;

    for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (strcmp(keys[i].name, key) == 0 && keys[i].type == CONFFILE_STRING) {
            const char *value =
                *(char *const *)(const void *)((const char *)conf + keys[i].offset);

            return value ? value : "";
        }
    return "";
}

/* A bare name, or HOST:PORT. Agents check it once more. */
static bool
node_is_right(const char *node)
{
    const char *colon = strrchr(node, ':');
    char *end;

    if (strlen(node) > 255 || strpbrk(node, " \t/") != NULL)
        return false;
    if (colon == NULL)
        return true;
    long port = strtol(colon + 1, &end, 10);
    bool v6 = node[0] == '[' && colon[-1] == ']';
    return colon > node && colon[1] >= '0' && colon[1] <= '9' && *end == '\0' &&
           port >= 1 && port <= 65535 && (v6 || strchr(node, ':') == colon);
}

int
server_conf_check(const struct server_conf *conf, struct err *err)
{
    size_t i;

    for (i = 0; server_conf_required[i]; i++)
        if (!server_conf_text(conf, server_conf_required[i])[0])
            return err_set(err, CE_EINVAL, "%s is not set, and there is no default",
                           server_conf_required[i]);
    if (!node_is_right(conf->node))
        return err_set(err, CE_EINVAL, "node: \"%s\" is neither a name nor HOST:PORT",
                       conf->node);
    if (!conf->metrics_listen || !conf->metrics_listen[0])
        return err_set(err, CE_EINVAL, "metrics_listen is empty: host:port, or off");
    if (conf->client_certs == SERVER_CONF_OPTIONAL &&
        (!conf->tenants || !conf->tenants[0]))
        return err_set(err, CE_EINVAL,
                       "client_certs = optional needs a tenants file: without a "
                       "certificate only a token says who is there");
    if (conf->max_seqs_per_session > conf->max_seqs)
        return err_set(err, CE_EINVAL, "max_seqs_per_session is above max_seqs");
    return 0;
}

void
server_conf_free(struct server_conf *conf)
{
    conffile_free(&server_conf_schema, conf);
    memset(conf, 0, sizeof(*conf));
}
