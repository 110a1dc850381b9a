/* SPDX-License-Identifier: Apache-2.0
 * display.c - see display.h.
 */
#include "agent/display.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "engine/utf8_stream.h"

#define PROGRESS_AFTER_US 2000000

/* SGR foreground colours: exits from green on, the cloud, a fallback. */
static const int exit_colors[] = { 32, 36, 34, 35 };
#define CLOUD_COLOR    33
#define FALLBACK_COLOR 31

#define CELL_WIDTH 17 /* of a token in the trace, in characters */
#define CELL_BYTES 64 /* looked at of it */

void
display_init(struct display *d, const struct agent_conf *conf,
             const struct edge_model *model, FILE *out, FILE *info)
{
    const char *no_color = getenv("NO_COLOR");

    memset(d, 0, sizeof(*d));
    d->out = out;
    d->info = info;
    d->model = model;
    d->quiet = conf->quiet;
    d->trace = conf->trace;
    d->color = conf->color == AGENT_COLOR_ALWAYS;
    if (conf->color == AGENT_COLOR_AUTO)
        d->color = isatty(fileno(out)) && (no_color == NULL || no_color[0] == '\0');
    d->progress = !d->quiet && isatty(fileno(info));
}

/* ---- colours ---- */

static int
exit_index(const struct display *d, int layer)
{
    int n = d->model->policy.n_exits;

    for (int k = 0; k < n; k++)
        if (d->model->exit_layers[k] == layer)
            return k;
    return 0;
}

static int
color_of_exit(int k)
{
    return exit_colors[k % (int)(sizeof(exit_colors) / sizeof(exit_colors[0]))];
}

static int
color_of(const struct display *d, const struct reply_token *t)
{
    switch (t->origin) {
    case REPLY_EXIT:
        return color_of_exit(exit_index(d, t->layer));
    case REPLY_CLOUD:
        return CLOUD_COLOR;
    case REPLY_FALLBACK:
        return FALLBACK_COLOR;
    case REPLY_FULL:
        break;
    }
    return 0;
}

static void
set_color(struct display *d, int color)
{
    if (!d->color || color == d->current_color)
        return;
    fprintf(d->out, "\033[%dm", color);
    d->current_color = color;
}

static void
legend(struct display *d)
{
    const struct policy *p = &d->model->policy;

    if (d->legend_shown || !d->color || d->quiet || p->mode == POLICY_EDGE_FULL)
        return;
    d->legend_shown = true;
    for (int k = 0; k < p->n_exits; k++) {
        set_color(d, color_of_exit(k));
        fprintf(d->out, "exit %d  ", d->model->exit_layers[k]);
    }
    if (policy_uses_cloud(p)) {
        set_color(d, CLOUD_COLOR);
        fputs("cloud  ", d->out);
        if (p->on_loss == POLICY_LOSS_EDGE) {
            set_color(d, FALLBACK_COLOR);
            fputs("fallback", d->out);
        }
    }
    set_color(d, 0);
    fputs("\n\n", d->out);
}

/* ---- text ---- */

/* Control characters but line breaks and tabs become \xNN. */
static void
put_text(FILE *out, const char *text, size_t len, bool one_line)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        bool shown = c >= 0x20 && c != 0x7f;
        if (!one_line && (c == '\n' || c == '\t'))
            shown = true;
        if (one_line && c == '\n')
            fputs("\\n", out);
        else if (shown)
            putc(c, out);
        else
            fprintf(out, "\\x%02x", c);
    }
}

static void
clear_progress(struct display *d)
{
    if (d->progress_shown)
        fputs("\r\033[K", d->info);
    d->progress_shown = false;
}

void
display_begin(struct display *d)
{
    d->start_us = clock_us();
    d->n_tokens = 0;
    d->ends_line = true;
}

void
display_prefill(struct display *d, int32_t done, int32_t total)
{
    if (!d->progress || clock_us() - d->start_us < PROGRESS_AFTER_US)
        return;
    d->progress_shown = true;
    fprintf(d->info, "\rreading the prompt: %d of %d tokens (%d %%) ", (int)done,
            (int)total, (int)(100.0 * done / total));
    fflush(d->info);
}

/* ---- the trace: the paper's Table 1 ---- */

static void
trace_head(struct display *d)
{
    fprintf(d->out, "%4s", "#");
    for (int k = 0; k < d->model->policy.n_exits; k++)
        fprintf(d->out, " | exit %-13d conf.", d->model->exit_layers[k]);
    fprintf(d->out, " | %-18s conf. | taken from\n",
            d->model->policy.mode == POLICY_EDGE_FULL ? "whole model" : "cloud");
}

static void
trace_cell(struct display *d, const struct reply_cell *c)
{
    struct utf8_stream utf8 = { { 0 }, 0 };
    char *text = NULL, whole[UTF8_STREAM_ROOM(CELL_BYTES)];
    size_t size = 0, len, n;
    const char *piece = tokenizer_piece(d->model->tokenizer, c->id, &len);
    FILE *f = open_memstream(&text, &size);

    if (f == NULL)
        return;
    n = utf8_stream_push(&utf8, piece, len < CELL_BYTES ? len : CELL_BYTES, whole);
    n += utf8_stream_end(&utf8, whole + n);
    put_text(f, whole, n, true);
    fclose(f);
    /* Characters, not bytes: cut and pad by hand. */
    int width = 0;
    fputs(" | ", d->out);
    for (size_t i = 0; i < size; i++) {
        bool begins = ((unsigned char)text[i] & 0xc0) != 0x80;
        if (begins && width == CELL_WIDTH)
            break;
        width += begins;
        putc(text[i], d->out);
    }
    fprintf(d->out, "%*s %.4f", CELL_WIDTH - width, "", (double)c->confidence);
    free(text);
}

static void
trace_row(struct display *d, const struct reply_token *t)
{
    bool whole = false;

    if (d->n_tokens == 0)
        trace_head(d);
    fprintf(d->out, "%4d", d->n_tokens + 1);
    for (int i = 0; i < t->n_cells; i++) {
        trace_cell(d, &t->cells[i]);
        whole = whole || t->cells[i].layer == 0;
    }
    if (!whole)
        fprintf(d->out, " | %-24s", "-");
    fprintf(d->out, " | %s", reply_origin_name(t->origin));
    if (t->layer > 0)
        fprintf(d->out, " %d", t->layer);
    putc('\n', d->out);
}

void
display_token(struct display *d, const struct reply_token *t)
{
    clear_progress(d);
    if (d->trace) {
        trace_row(d, t);
    } else if (t->text_len > 0) {
        legend(d);
        set_color(d, color_of(d, t));
        put_text(d->out, t->text, t->text_len, false);
        d->ends_line = t->text[t->text_len - 1] == '\n';
    }
    d->n_tokens++;
    fflush(d->out);
}

void
display_end(struct display *d)
{
    clear_progress(d);
    set_color(d, 0);
    if (!d->ends_line)
        putc('\n', d->out);
    fflush(d->out);
}

void
display_notice(struct display *d, const char *text)
{
    if (d->quiet)
        return;
    clear_progress(d);
    /* The answer's line goes on behind it; only a terminal shows both. */
    fprintf(d->info, "%scecollm-agent: %s\n", d->progress && !d->ends_line ? "\n" : "",
            text);
}

/* ---- the summary ---- */

static void
put_share(FILE *out, const char *name, int layer, int n, int of)
{
    if (n == 0)
        return;
    fprintf(out, ", %s", name);
    if (layer > 0)
        fprintf(out, " %d", layer);
    fprintf(out, " %d (%.0f %%)", n, 100.0 * n / of);
}

void
display_summary(const struct display *d, const struct decode_result *r)
{
    FILE *f = d->info;

    if (d->quiet)
        return;
    int n = r->n_tokens > 0 ? r->n_tokens : 1;
    fprintf(f, "%zu + %d tokens", r->n_prompt, r->n_tokens);
    for (int k = 0; k < d->model->policy.n_exits; k++)
        put_share(f, "exit", d->model->exit_layers[k], r->by_exit[k], n);
    put_share(f, "cloud", 0, r->by_cloud, n);
    put_share(f, "whole model", 0, r->by_full, n);
    put_share(f, "fallback", 0, r->by_fallback, n);
    fprintf(f, " (%s)\n", decode_end_name(r->end));
    if (policy_uses_cloud(&d->model->policy)) {
        fprintf(f, "%d requests, %d stalls, %.1f KiB up", r->requests, r->stalls,
                (double)r->bytes_up / 1024);
        if (r->probes > 0)
            fprintf(f, ", %d requests for the trace alone", r->probes);
        putc('\n', f);
    }
    if (r->moves > 0)
        fprintf(f, "went on in another session %d %s\n", r->moves,
                r->moves == 1 ? "time" : "times");
    if (r->screened > 0)
        fprintf(f, "%d exit checks ended by screens\n", r->screened);
    double total = (double)r->total_us / 1e6, first = (double)r->prefill_us / 1e6;
    fprintf(f, "%.2f s: edge %.2f, cloud %.2f, wire %.2f; first token after %.2f", total,
            (double)r->edge_us / 1e6, (double)r->cloud_us / 1e6, (double)r->wire_us / 1e6,
            first);
    if (r->n_tokens > 1 && total > first)
        fprintf(f, "; then %.1f tokens/s", (r->n_tokens - 1) / (total - first));
    putc('\n', f);
    if (r->cloud_lost)
        fprintf(f, "went on without the cloud: %s\n", r->loss.text);
}
