/* SPDX-License-Identifier: Apache-2.0
 * agent_conf.c - see agent_conf.h. The table here, etc/cecollm-agent.conf and
 * man/cecollm-agent.conf.5 are compared by tests/unit/test_agent_conf.c.
 */
#include "agent/agent_conf.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/memory.h"

static const char *const losses[] = { "fail", "edge", NULL };
static const char *const kvs[] = { "keep", "drop", NULL };
static const char *const codecs[] = { "f32", "f16", NULL };
static const char *const colors[] = { "auto", "always", "never", NULL };

#define AT(field) offsetof(struct agent_conf, field)

static const struct conffile_key keys[] = {
    { "model", CONFFILE_STRING, AT(model), NULL,
      .help = "GGUF file of the model, or of its edge partition." },
    { "exits", CONFFILE_STRING, AT(exits), NULL,
      .help = "Exit heads' side file. Unset: the file beside the model whose name ends "
              "in .exits.gguf, if there is one. none: only exits in the model's own "
              "file." },
    { "exit_layers", CONFFILE_STRING, AT(exit_layers), NULL,
      .help = "Layers such as 8,16: put exits there that share the model's norm and "
              "output matrix, instead of those in files. For models trained for it, "
              "as with LayerSkip; in others such exits are sure and wrong." },
    { "no_exits", CONFFILE_BOOL, AT(no_exits), "no",
      .help = "Use no exits at all: every token is the cloud's." },
    { "cut_layer", CONFFILE_INT, AT(cut_layer), "0", .min = 0, .max = 1000,
      .help = "Without exits, the layer after which hidden states go up. 0: the first "
              "exit of the model's file, or half of the layers. With exits it is always "
              "the first one's." },
    { "context", CONFFILE_INT, AT(context), "0", .min = 0, .max = 1048576,
      .help = "Most positions of prompt and answer together. 0: the model's own." },
    { "threads", CONFFILE_INT, AT(threads), "0", .min = 0, .max = 256,
      .help = "Threads that compute. 0: as many as there are cores for us." },
    { "prefill_chunk", CONFFILE_INT, AT(prefill_chunk), "128", .min = 1, .max = 4096,
      .help = "Positions computed in one step while reading the prompt; their hidden "
              "states go up while the next ones are computed." },
    { "cpu", CONFFILE_STRING, AT(cpu), "auto",
      .help = "Instruction set: auto, scalar, avx2, avxvnni, avx512, neon, neon-dotprod "
              "or neon-i8mm. All give the same bits." },
    { "packing", CONFFILE_BOOL, AT(packing), "on",
      .help = "Keep the weights packed in memory, as the kernels read them. off: leave "
              "them in the model's file and pack small pieces while computing: less "
              "memory, slower, the same bits." },
    { "packing_cache", CONFFILE_STRING, AT(packing_cache), NULL,
      .help = "Folder in which packed weights are kept, so that processes share one copy "
              "of them and need not pack. Only trusted users may write to it. Unset: "
              "none." },
    { "mode", CONFFILE_ENUM, AT(mode), "collaborative", .choices = policy_mode_names,
      .help = "Where tokens come from. standalone: the last exit decides, no cloud. "
              "collaborative: exits where they are sure, else the cloud. cloud: the "
              "cloud runs the whole model. naive: every token by the cloud, all hidden "
              "states sent each time. edge-full: the whole model here." },
    { "theta", CONFFILE_STRING, AT(theta), NULL,
      .help = "Confidence from which an exit lets its token out: 0.9 for all, or "
              "18=0.98,24=0.9 by layer. 1 or more: never. Unset: what the exits' file "
              "suggests, else 0.9." },
    { "screens", CONFFILE_BOOL, AT(screens), "on",
      .help = "Let an exit's screen turn away tokens that it is not sure of, before the "
              "costly part of the exit's check. off: check in full, always." },
    { "upload", CONFFILE_STRING, AT(upload), "always",
      .help = "When hidden states of new tokens travel. always: at once. below:X: when "
              "the first exit's confidence is below X. on-request: with the next "
              "request. States held back go with the next ones that travel." },
    { "on_cloud_loss", CONFFILE_ENUM, AT(on_cloud_loss), "fail", .choices = losses,
      .help =
          "When the cloud fails in the middle of an answer. fail: wait for it to come "
          "back, as long as reconnect and deadline allow, and go on with the same "
          "tokens; then end the answer with an error. edge: do not wait, the last "
          "exit goes on until the cloud is there again, tokens it is not sure of are "
          "marked as fallback." },
    { "naive_kv", CONFFILE_ENUM, AT(naive_kv), "keep", .choices = kvs,
      .help = "Whether the cloud keeps the sequence between requests in mode naive." },
    { "cloud", CONFFILE_STRING, AT(cloud), NULL,
      .help = "The cloud's address, HOST:PORT or [ADDRESS]:PORT." },
    { "ca", CONFFILE_STRING, AT(ca), NULL,
      .help = "PEM file of the authority that signed the cloud's certificate." },
    { "cert", CONFFILE_STRING, AT(cert), NULL, .help = "PEM file of our certificate." },
    { "key", CONFFILE_STRING, AT(key), NULL, .help = "PEM file of its key." },
    { "token_file", CONFFILE_STRING, AT(token_file), NULL,
      .help = "File whose first line is a bearer token for the cloud, where one is "
              "asked for. A warning says when others may read it. With it, cert and key "
              "may be left out where the cloud allows that." },
    { "codec", CONFFILE_ENUM, AT(codec), "f16", .choices = codecs,
      .help = "How hidden states travel: f16 rounds them to half precision, f32 is "
              "exact. Mode naive always takes f32." },
    { "connect_timeout", CONFFILE_DURATION, AT(connect_timeout_us), "10s",
      .help = "Longest wait for a connection to the cloud, greeting included, and for "
              "a cloud that is full and says when to try again." },
    { "silence_timeout", CONFFILE_DURATION, AT(silence_timeout_us), "15s", .min = 0,
      .max = 3600e6,
      .help =
          "A cloud that owes an answer and gives no sign of life for so long, not even "
          "when asked for one, counts as lost. 0: no limit." },
    { "reconnect", CONFFILE_DURATION, AT(reconnect_us), "2min", .min = 0, .max = 86400e6,
      .help =
          "How long to try to find a lost cloud again, with growing waits in between. "
          "0: do not try." },
    { "deadline", CONFFILE_DURATION, AT(deadline_us), "60s",
      .help = "Longest wait for one token of the cloud. 0: no limit." },
    { "retain_limit", CONFFILE_SIZE, AT(retain_bytes), "256M", .min = 65536,
      .max = 1099511627776.0,
      .help = "Most bytes of encoded hidden states kept for one answer, so that they "
              "can be sent again. An answer that may need more is refused." },
    { "require_exact", CONFFILE_BOOL, AT(require_exact), "no",
      .help = "Refuse a cloud whose arithmetic differs from ours, instead of warning "
              "that its tokens may differ." },
    { "max_tokens", CONFFILE_INT, AT(max_tokens), "256", .min = 1, .max = 1048576,
      .help = "Most tokens of one answer." },
    { "temperature", CONFFILE_DOUBLE, AT(temperature), "0", .min = 0, .max = 100,
      .help = "0: always the likeliest token. Above: how freely it is drawn." },
    { "top_k", CONFFILE_INT, AT(top_k), "0", .min = 0, .max = SAMPLER_MAX_ROW,
      .help = "Draw from the k likeliest tokens. 0: from the 128 that travel." },
    { "top_p", CONFFILE_DOUBLE, AT(top_p), "1", .min = 0, .max = 1,
      .help = "Draw from the likeliest tokens that together have this probability." },
    { "min_p", CONFFILE_DOUBLE, AT(min_p), "0", .min = 0, .max = 1,
      .help = "Draw from tokens at least this likely, relative to the likeliest." },
    { "seed", CONFFILE_INT, AT(seed), "0", .min = 0, .max = 9007199254740992.0,
      .help = "Seed of the draws: the same seed, model and prompt give the same "
              "answer." },
    { "stop", CONFFILE_STRING, AT(stop), NULL,
      .help = "Strings that end an answer, separated by |. \\n, \\t, \\| and \\\\ stand "
              "for a line break, a tab, a bar and a backslash." },
    { "system", CONFFILE_STRING, AT(system), NULL,
      .help = "System message put before the conversation." },
    { "chat_template", CONFFILE_STRING, AT(template_name), NULL,
      .help = "Name of the chat template, instead of the one that the model's file "
              "brings." },
    { "raw", CONFFILE_BOOL, AT(raw), "no",
      .help = "Take the prompt as it is, without a chat template." },
    { "json", CONFFILE_BOOL, AT(json), "no",
      .help = "Print one JSON object per answer instead of text." },
    { "trace", CONFFILE_BOOL, AT(trace), "no",
      .help = "Print, for every token, what each exit and the cloud predict and how "
              "sure they are. Computes and asks everything for it." },
    { "hash", CONFFILE_BOOL, AT(hash), "no",
      .help = "With json: the hash of each token's row of logits." },
    { "quiet", CONFFILE_BOOL, AT(quiet), "no",
      .help = "No summary, no legend, no progress." },
    { "color", CONFFILE_ENUM, AT(color), "auto", .choices = colors,
      .help = "Colour tokens by where they were made. auto: on a terminal, unless "
              "NO_COLOR is set." },
    { "log_level", CONFFILE_ENUM, AT(log_level), "warn", .choices = log_level_names,
      .help = "Least important messages logged to standard error." },
};

static const struct conffile_section sections[] = {
    { .name = "",
      .keys = keys,
      .n_keys = (int)(sizeof(keys) / sizeof(keys[0])),
      .help = "Settings of cecollm-agent; see cecollm-agent.conf(5)." },
};

static const struct conffile_schema schema = { sections, 1 };

const struct conffile_schema *
agent_conf_schema(void)
{
    return &schema;
}

void
agent_conf_print(FILE *out)
{
    conffile_print(&schema, out);
}

void
agent_conf_usage(FILE *out)
{
    fputs("usage: cecollm-agent -m MODEL [-c FILE] [-p PROMPT | --prompts FILE | "
          "--ids N,N,...]\n"
          "                     [--cloud HOST:PORT --ca FILE --cert FILE --key FILE]\n"
          "                     [--force-ids N,N,...] [--SETTING[=VALUE]]...\n"
          "       cecollm-agent --print-config | --help | --version\n"
          "Without a prompt it chats. -m, -c and -p are short for --model, --config and\n"
          "--prompt. Settings:\n",
          out);
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        fputs("  --", out);
        for (const char *s = keys[i].name; *s != '\0'; s++)
            putc(*s == '_' ? '-' : *s, out);
        fputs(keys[i].type == CONFFILE_BOOL ? "\n" : " VALUE\n", out);
    }
    fputs("See cecollm-agent(1) and cecollm-agent.conf(5).\n", out);
}

/* ---- command line ---- */

struct option { /* on the command line only */
    const char *name, *letter;
    size_t offset; /* of a char *, or of a bool without value */
    bool has_value;
};

static const struct option options[] = {
    { "prompt", "p", AT(prompt), true },
    { "prompts", NULL, AT(prompts_file), true },
    { "ids", NULL, AT(ids), true },
    { "force-ids", NULL, AT(force_ids), true },
    { "help", "h", AT(want_help), false },
    { "version", "V", AT(want_version), false },
    { "print-config", NULL, AT(want_config), false },
};

/* Options have dashes where keys have underscores. */
static bool
same_name(const char *key, const char *name, size_t len)
{
    if (strlen(key) != len)
        return false;
    for (size_t i = 0; i < len; i++)
        if (key[i] != name[i] && !(key[i] == '_' && name[i] == '-'))
            return false;
    return true;
}

static const struct conffile_key *
find_key(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (same_name(keys[i].name, name, len))
            return &keys[i];
    return NULL;
}

static const struct option *
find_option(const char *name, size_t len, bool letter)
{
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        const char *n = letter ? options[i].letter : options[i].name;
        if (n != NULL && strlen(n) == len && memcmp(n, name, len) == 0)
            return &options[i];
    }
    return NULL;
}

/* One argument, split. */
struct argument {
    const char *shown; /* as typed, for errors */
    const char *name;
    size_t len;
    bool letter;
    const char *value; /* behind "=", or the next argument; NULL: none */
    bool joined;       /* by "=" */
};

static int
set_option(struct agent_conf *c, const struct option *o, const struct argument *a,
           struct err *err)
{
    char *field = (char *)c + o->offset;

    if (!o->has_value) {
        *(bool *)(void *)field = true;
        return a->joined ? err_set(err, CE_EINVAL, "%s takes no value", a->shown) : 0;
    }
    if (a->value == NULL)
        return err_set(err, CE_EINVAL, "%s needs a value", a->shown);
    mem_free(*(char **)(void *)field);
    *(char **)(void *)field = mem_strdup(a->value);
    return *(char **)(void *)field != NULL ? 0 : err_set(err, CE_ENOMEM, "out of memory");
}

static int
assign(struct agent_conf *c, const char *key, const char *value, struct err *err)
{
    size_t n = strlen(key) + strlen(value) + 2;
    char *s = mem_array_alloc(n, 1);

    if (s == NULL)
        return err_set(err, CE_ENOMEM, "out of memory");
    snprintf(s, n, "%s=%s", key, value);
    int rc = conffile_set(&schema, c, s, err);
    mem_free(s);
    return rc;
}

static int
set_key(struct agent_conf *c, const struct conffile_key *k, const struct argument *a,
        bool *used_next, struct err *err)
{
    *used_next = false;
    if (k->type == CONFFILE_BOOL)
        return assign(c, k->name, a->joined ? a->value : "yes", err);
    if (a->value == NULL)
        return err_set(err, CE_EINVAL, "%s needs a value", a->shown);
    *used_next = !a->joined;
    return assign(c, k->name, a->value, err);
}

/* argv[*i], and argv[*i + 1] where it takes a value. */
static int
take(struct agent_conf *c, int argc, char **argv, int *i, struct err *err)
{
    const char *s = argv[*i];
    struct argument a = { .shown = s };
    bool next = false;
    int rc;

    if (s[0] != '-' || s[1] == '\0')
        return err_set(err, CE_EINVAL,
                       "\"%s\" is not an option (the prompt goes behind -p)", s);
    a.letter = s[1] != '-';
    a.name = s + (a.letter ? 1 : 2);
    const char *eq = a.letter ? NULL : strchr(a.name, '=');
    a.len = eq != NULL ? (size_t)(eq - a.name) : strlen(a.name);
    a.joined = eq != NULL;
    a.value = eq != NULL ? eq + 1 : *i + 1 < argc ? argv[*i + 1] : NULL;
    const struct option *o = find_option(a.name, a.len, a.letter);
    const struct conffile_key *k = a.letter ? NULL : find_key(a.name, a.len);
    if (a.letter && strcmp(a.name, "m") == 0)
        k = find_key("model", 5);
    if (o != NULL) {
        rc = set_option(c, o, &a, err);
        next = o->has_value && !a.joined;
    } else if (k != NULL) {
        rc = set_key(c, k, &a, &next, err);
    } else if (a.len > 3 && strncmp(a.name, "no-", 3) == 0 && !a.joined &&
               (k = find_key(a.name + 3, a.len - 3)) != NULL &&
               k->type == CONFFILE_BOOL) {
        rc = assign(c, k->name, "no", err);
    } else {
        rc = err_set(err, CE_EINVAL, "unknown option %.*s (--help lists them)",
                     a.letter ? (int)strlen(s) : (int)a.len + 2, s);
    }
    *i += next ? 1 : 0;
    return rc;
}

/* -c FILE is read before the other options, wherever it stands. */
static int
load_files(struct agent_conf *c, int argc, char **argv, struct err *err)
{
    for (int i = 1; i < argc; i++) {
        bool named = strcmp(argv[i], "-c") == 0 || strcmp(argv[i], "--config") == 0;
        if (!named && strncmp(argv[i], "--config=", 9) != 0)
            continue;
        const char *path = named ? argv[i + 1] : argv[i] + 9;
        if (path == NULL)
            return err_set(err, CE_EINVAL, "%s needs a file", argv[i]);
        int rc = conffile_load(&schema, c, path, err);
        if (rc < 0)
            return rc;
        i += named ? 1 : 0;
    }
    return 0;
}

/* ---- values that need more than a type ---- */

/* "a|b" to stops, with escapes. */
static int
split_stops(struct agent_conf *c, struct err *err)
{
    const char *s = c->stop != NULL ? c->stop : "";

    while (*s != '\0') {
        char *out = mem_array_alloc(strlen(s) + 1, 1);
        size_t n = 0;
        if (out == NULL)
            return err_set(err, CE_ENOMEM, "out of memory");
        for (; *s != '\0' && *s != '|'; s++) {
            if (*s == '\\' && s[1] != '\0')
                out[n++] = *++s == 'n' ? '\n' : *s == 't' ? '\t' : *s;
            else
                out[n++] = *s;
        }
        s += *s == '|';
        if (n == 0 || c->n_stops == AGENT_MAX_STOPS) {
            mem_free(out);
            return err_set(err, CE_EINVAL,
                           n == 0 ? "stop: an empty string would end every answer"
                                  : "stop: more than %d strings",
                           AGENT_MAX_STOPS);
        }
        c->stops[c->n_stops++] = out;
    }
    return 0;
}

static int
finish(struct agent_conf *c, struct err *err)
{
    int n_inputs = (c->prompt != NULL) + (c->prompts_file != NULL) + (c->ids != NULL);

    if (c->want_help || c->want_version || c->want_config)
        return 0;
    if (c->model == NULL || c->model[0] == '\0')
        return err_set(err, CE_EINVAL, "no model (-m FILE)");
    if (n_inputs > 1)
        return err_set(err, CE_EINVAL, "-p, --prompts and --ids exclude each other");
    if (c->no_exits && c->exit_layers != NULL)
        return err_set(err, CE_EINVAL, "no_exits and exit_layers exclude each other");
    sampler_params_init(&c->sampling);
    c->sampling.temperature = c->temperature;
    c->sampling.top_k = (int)c->top_k;
    c->sampling.top_p = c->top_p;
    c->sampling.min_p = c->min_p;
    c->sampling.seed = (uint64_t)c->seed;
    int rc = sampler_check(&c->sampling, err);
    return rc < 0 ? rc : split_stops(c, err);
}

int
agent_conf_read(struct agent_conf *c, int argc, char **argv, struct err *err)
{
    memset(c, 0, sizeof(*c));
    int rc = conffile_defaults(&schema, c, err);
    if (rc == 0)
        rc = load_files(c, argc, argv, err);
    for (int i = 1; i < argc && rc == 0; i++) {
        if (strcmp(argv[i], "-c") == 0 || strcmp(argv[i], "--config") == 0)
            i++;
        else if (strncmp(argv[i], "--config=", 9) != 0)
            rc = take(c, argc, argv, &i, err);
    }
    return rc == 0 ? finish(c, err) : rc;
}

void
agent_conf_free(struct agent_conf *c)
{
    conffile_free(&schema, c);
    mem_free(c->prompt);
    mem_free(c->prompts_file);
    mem_free(c->ids);
    mem_free(c->force_ids);
    for (int i = 0; i < c->n_stops; i++)
        mem_free(c->stops[i]);
    memset(c, 0, sizeof(*c));
}

int
agent_conf_parse_ids(const char *text, int32_t **ids, int *n, struct err *err)
{
    size_t cap = 1;

    for (const char *s = text; *s != '\0'; s++)
        cap += *s == ',';
    *n = 0;
    *ids = mem_array_alloc(cap, sizeof(int32_t));
    if (*ids == NULL)
        return err_set(err, CE_ENOMEM, "no memory for %zu ids", cap);
    for (const char *s = text;;) {
        char *end;
        errno = 0;
        long v = strtol(s, &end, 10);
        if (end == s || errno != 0 || v < 0 || v > INT32_MAX ||
            (*end != ',' && *end != '\0')) {
            mem_free(*ids);
            *ids = NULL;
            return err_set(err, CE_EINVAL, "ids: \"%.40s\" is not a list of numbers",
                           text);
        }
        (*ids)[(*n)++] = (int32_t)v;
        if (*end == '\0')
            return 0;
        s = end + 1;
    }
}
