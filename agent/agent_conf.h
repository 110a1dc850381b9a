/* SPDX-License-Identifier: Apache-2.0
 * agent_conf.h - the agent's settings: one table for file, command line and manual.
 *
 * Every key of etc/cecollm-agent.conf is an option of the same name, with dashes
 * (`max_tokens = 64`, `--max-tokens 64`, `--max-tokens=64`; yes/no keys also alone
 * and with "no-").
 * Only what an answer is asked for, and where settings come from, is on the command
 * line alone: -p, --prompts, --ids, --force-ids, -c, --help, --version.
 *
 * Owner: main; others get what they need by value.
 */
#ifndef CE_AGENT_AGENT_CONF_H
#define CE_AGENT_AGENT_CONF_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "agent/policy.h"
#include "common/conffile.h"
#include "common/error.h"
#include "engine/sampler.h"

enum agent_color { AGENT_COLOR_AUTO, AGENT_COLOR_ALWAYS, AGENT_COLOR_NEVER };

#define AGENT_MAX_STOPS 16

struct agent_conf {
    /* model */
    char *model, *exits, *exit_layers;
    bool no_exits;
    int64_t cut_layer, context, threads, prefill_chunk;
    char *cpu, *packing_cache;
    bool packing;
    /* where tokens come from */
    int mode; /* enum policy_mode */
    char *theta, *upload;
    bool screens;
    int on_cloud_loss; /* enum policy_loss */
    int naive_kv;      /* 0 keep, 1 drop */
    /* the cloud */
    char *cloud, *ca, *cert, *key, *token_file;
    int codec; /* enum states_codec */
    int64_t connect_timeout_us, silence_timeout_us, reconnect_us;
    int64_t deadline_us, retain_bytes;
    bool require_exact;
    /* the answer */
    int64_t max_tokens, top_k, seed;
    double temperature, top_p, min_p;
    char *stop, *system, *template_name;
    bool raw;
    /* what is shown */
    bool json, trace, hash, quiet;
    int color; /* enum agent_color */
    int log_level;

    /* command line only */
    char *prompt, *prompts_file, *ids, *force_ids; /* owned */
    bool want_help, want_version, want_config;

    /* worked out by agent_conf_finish */
    int n_stops;
    char *stops[AGENT_MAX_STOPS]; /* owned */
    struct sampler_params sampling;
};

/* Defaults, then -c FILE if given, then the options. One error, one line. */
int agent_conf_read(struct agent_conf *c, int argc, char **argv,
                    struct err *err) CE_MUSTCHECK;
void agent_conf_free(struct agent_conf *c);

/* The settings file with every key at its default. */
void agent_conf_print(FILE *out);

void agent_conf_usage(FILE *out);

/* The table, for tests. */
const struct conffile_schema *agent_conf_schema(void);

/* "1,2,3" to ids. *ids: mem_free'd by the caller. */
int agent_conf_parse_ids(const char *text, int32_t **ids, int *n,
                         struct err *err) CE_MUSTCHECK;

#endif
