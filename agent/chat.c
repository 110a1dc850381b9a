/* SPDX-License-Identifier: Apache-2.0
 * chat.c - see chat.h.
 *
 * A line is a message, or a command when it begins with a slash. Lines are read only
 * while nothing is being answered; what is typed ahead waits in the terminal. Each
 * turn is a sequence of its own, the conversation so far its prompt.
 */
#include "agent/chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/app.h"
#include "agent/display.h"
#include "common/bytebuf.h"
#include "common/memory.h"

#define CHAT_MAX_LINE     ((size_t)1 << 20)
#define CHAT_MAX_MESSAGES 512

struct chat {
    const struct agent_conf *conf;
    struct app *app;
    struct display display;
    struct event *input;
    struct bytebuf in, answer;
    bool terminal, at_end;
    struct chat_message messages[CHAT_MAX_MESSAGES]; /* contents owned */
    int n_messages;
    struct policy wanted; /* asked for, not yet in effect */
    struct decode_result sum;
    int n_answers;
};

static void read_on(struct chat *c);

/* ---- the conversation ---- */

static void
drop_messages(struct chat *c, int keep)
{
    while (c->n_messages > keep)
        mem_free((char *)c->messages[--c->n_messages].content);
}

static int
add_message(struct chat *c, const char *role, const char *text, size_t len,
            struct err *err)
{
    char *copy = mem_strndup(text, len);

    if (copy == NULL)
        return err_set(err, CE_ENOMEM, "out of memory");
    if (c->n_messages == CHAT_MAX_MESSAGES) {
        mem_free(copy);
        return err_set(err, CE_EQUOTA, "the conversation is too long: /reset");
    }
    c->messages[c->n_messages++] = (struct chat_message){ role, copy, len };
    return 0;
}

static int
reset(struct chat *c, struct err *err)
{
    const char *system = c->conf->system;

    drop_messages(c, 0);
    if (system == NULL || system[0] == '\0')
        return 0;
    return add_message(c, "system", system, strlen(system), err);
}

static int
ask(struct chat *c, const char *line, size_t len, struct err *err)
{
    struct decode_request q = { .max_tokens = (int)c->conf->max_tokens,
                                .sampling = c->conf->sampling,
                                .stops = (const char *const *)c->conf->stops,
                                .n_stops = c->conf->n_stops,
                                .deadline_ms = (uint32_t)(c->conf->deadline_us / 1000) };
    int32_t *ids = NULL;
    int rc = add_message(c, "user", line, len, err);

    if (rc < 0)
        return rc;
    rc = edge_model_encode(app_model(c->app), c->messages, c->n_messages, &ids,
                           &q.n_prompt, err);
    q.prompt = ids;
    bytebuf_reset(&c->answer);
    display_begin(&c->display);
    if (rc == 0)
        rc = app_ask(c->app, &q, err);
    mem_free(ids);
    if (rc < 0)
        drop_messages(c, c->n_messages - 1);
    return rc;
}

/* ---- commands ---- */

static int
command_reset(struct chat *c, const char *arg, struct err *err)
{
    (void)arg;
    return reset(c, err);
}

static int
command_theta(struct chat *c, const char *arg, struct err *err)
{
    struct edge_model *m = app_model(c->app);

    c->wanted = m->policy;
    int rc = policy_parse_theta(&c->wanted, m->exit_layers, arg, err);
    if (rc == 0)
        rc = app_set_policy(c->app, &c->wanted, err);
    return rc < 0 ? rc : 1;
}

static int
command_mode(struct chat *c, const char *arg, struct err *err)
{
    int mode = policy_find_mode(arg);

    if (mode < 0)
        return err_set(err, CE_EINVAL, "no mode \"%s\"", arg);
    c->wanted = app_model(c->app)->policy;
    c->wanted.mode = (enum policy_mode)mode;
    int rc = app_set_policy(c->app, &c->wanted, err);
    return rc < 0 ? rc : 1;
}

static int
command_stats(struct chat *c, const char *arg, struct err *err)
{
    (void)arg;
    (void)err;
    fprintf(stderr, "%d answers; all together:\n", c->n_answers);
    display_summary(&c->display, &c->sum);
    return 0;
}

static int
command_quit(struct chat *c, const char *arg, struct err *err)
{
    (void)arg;
    (void)err;
    app_quit(c->app, APP_EXIT_OK);
    return 1;
}

static int command_help(struct chat *c, const char *arg, struct err *err);

/* Each returns 0 to read on, 1 when something will come first, or an error. */
static const struct {
    const char *name, *help;
    int (*run)(struct chat *c, const char *arg, struct err *err);
} commands[] = {
    { "reset", "forget the conversation", command_reset },
    { "theta", "X or LAYER=X,...: thresholds of the exits", command_theta },
    { "mode", "NAME: where tokens come from", command_mode },
    { "stats", "counts and times of all answers", command_stats },
    { "quit", "end", command_quit },
    { "help", "this list", command_help },
};

static int
command_help(struct chat *c, const char *arg, struct err *err)
{
    (void)c;
    (void)arg;
    (void)err;
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        fprintf(stderr, "/%-6s %s\n", commands[i].name, commands[i].help);
    return 0;
}

static int
run_command(struct chat *c, const char *line, struct err *err)
{
    size_t n = strcspn(line, " \t");
    const char *arg = line + n + strspn(line + n, " \t");

    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        if (strlen(commands[i].name) == n && memcmp(commands[i].name, line, n) == 0)
            return commands[i].run(c, arg, err);
    return err_set(err, CE_EINVAL, "no command /%.*s (/help lists them)", (int)n, line);
}

/* ---- input ---- */

static void
on_line(struct chat *c, char *line, size_t len)
{
    struct err err = { 0 };
    int rc = 0;

    while (len > 0 && strchr("\r\n \t", line[len - 1]) != NULL)
        len--;
    line[len] = '\0';
    if (len > 0 && line[0] == '/')
        rc = run_command(c, line + 1, &err);
    else if (len > 0)
        rc = ask(c, line, len, &err) < 0 ? err.code : 1;
    if (rc < 0)
        app_complain(&err);
    if (rc != 1)
        read_on(c);
}

/* Take a line from what has been read: true when there was one. */
static bool
take_line(struct chat *c)
{
    const uint8_t *data = bytebuf_data(&c->in);
    size_t have = bytebuf_len(&c->in);
    const uint8_t *nl = have > 0 ? memchr(data, '\n', have) : NULL;
    size_t n = nl != NULL ? (size_t)(nl - data) + 1 : have;

    if (nl == NULL && !(c->at_end && have > 0))
        return false;
    char *line = mem_strndup((const char *)data, n);
    bytebuf_consume(&c->in, n);
    if (line != NULL)
        on_line(c, line, n);
    mem_free(line);
    return true;
}

/* Ready for the next line: one that has been read already, or wait for it. */
static void
read_on(struct chat *c)
{
    if (take_line(c))
        return;
    if (c->at_end)
        return app_quit(c->app, APP_EXIT_OK);
    if (c->terminal) {
        fputs("> ", stdout);
        fflush(stdout);
    }
    event_add(c->input, NULL);
}

static void
on_input(evutil_socket_t fd, short what, void *arg)
{
    struct chat *c = arg;
    char part[4096];
    ssize_t n = read(fd, part, sizeof(part));

    (void)what;
    if (n > 0)
        bytebuf_put_bytes(&c->in, part, (size_t)n);
    else
        c->at_end = true;
    if (bytebuf_status(&c->in) < 0) {
        struct err err = { 0 };
        err_set(&err, CE_EQUOTA, "a line has more than %zu bytes", CHAT_MAX_LINE);
        app_complain(&err);
        return app_quit(c->app, APP_EXIT_ANSWER);
    }
    if (c->at_end && c->terminal)
        putchar('\n');
    if (!take_line(c)) {
        if (c->at_end)
            app_quit(c->app, APP_EXIT_OK);
        else
            event_add(c->input, NULL);
    }
}

/* ---- from the application ---- */

static void
on_ready(void *ctx, struct app *a)
{
    struct chat *c = ctx;
    struct err err = { 0 };

    c->app = a;
    display_init(&c->display, c->conf, app_model(a), stdout, stderr);
    c->input = event_new(app_base(a), STDIN_FILENO, EV_READ, on_input, c);
    if (c->input == NULL || reset(c, &err) < 0)
        return app_quit(a, APP_EXIT_ANSWER);
    if (c->terminal && !c->conf->quiet)
        fputs("/help lists the commands; Ctrl-C stops an answer, Ctrl-D ends.\n", stderr);
    read_on(c);
}

static void
on_prefill(void *ctx, int32_t done, int32_t total)
{
    display_prefill(&((struct chat *)ctx)->display, done, total);
}

static void
on_token(void *ctx, const struct reply_token *t)
{
    struct chat *c = ctx;

    bytebuf_put_bytes(&c->answer, t->text, t->text_len);
    display_token(&c->display, t);
}

static void
add_up(struct decode_result *sum, const struct decode_result *r)
{
    sum->end = r->end;
    sum->n_prompt += r->n_prompt;
    sum->n_tokens += r->n_tokens;
    for (int k = 0; k < MODEL_MAX_EXITS; k++)
        sum->by_exit[k] += r->by_exit[k];
    sum->by_cloud += r->by_cloud;
    sum->by_full += r->by_full;
    sum->by_fallback += r->by_fallback;
    sum->requests += r->requests;
    sum->stalls += r->stalls;
    sum->probes += r->probes;
    sum->screened += r->screened;
    sum->moves += r->moves;
    sum->bytes_up += r->bytes_up;
    sum->prefill_us += r->prefill_us;
    sum->total_us += r->total_us;
    sum->edge_us += r->edge_us;
    sum->cloud_us += r->cloud_us;
    sum->wire_us += r->wire_us;
}

static void
on_done(void *ctx, const struct decode_result *r, const struct err *err)
{
    struct chat *c = ctx;
    struct err no_room = { 0 };

    display_end(&c->display);
    if (err != NULL)
        app_complain(err);
    else
        display_summary(&c->display, r);
    c->n_answers++;
    add_up(&c->sum, r);
    if (err != NULL)
        drop_messages(c,
                      c->n_messages - 1); /* the question, so that it can be put again */
    else if (add_message(c, "assistant", (const char *)bytebuf_data(&c->answer),
                         bytebuf_len(&c->answer), &no_room) < 0)
        app_complain(&no_room);
    if (err != NULL && app_cloud_lost(c->app) && !c->terminal)
        return app_quit(c->app, APP_EXIT_ANSWER);
    read_on(c);
}

static void
on_policy(void *ctx, const struct err *err)
{
    if (err != NULL)
        app_complain(err);
    read_on(ctx);
}

static void
on_idle_interrupt(void *ctx)
{
    struct chat *c = ctx;

    if (!c->terminal)
        return app_quit(c->app, APP_EXIT_OK);
    fputs("\n(/quit or Ctrl-D ends)\n> ", stdout);
    fflush(stdout);
}

static void
on_notice(void *ctx, const char *text)
{
    struct chat *c = ctx;

    display_notice(&c->display, text);
}

int
chat_run(const struct agent_conf *conf)
{
    struct chat *c = mem_array_alloc(1, sizeof(*c));
    struct app_user user = { on_ready,  on_prefill,        on_token,  on_done,
                             on_policy, on_idle_interrupt, on_notice, c };

    if (c == NULL)
        return APP_EXIT_ANSWER;
    c->conf = conf;
    c->terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
    bytebuf_init(&c->in, CHAT_MAX_LINE);
    bytebuf_init(&c->answer, (size_t)64 << 20);
    int code = app_run(conf, &user);
    drop_messages(c, 0);
    if (c->input != NULL)
        event_free(c->input);
    bytebuf_fini(&c->in);
    bytebuf_fini(&c->answer);
    mem_free(c);
    return code;
}
