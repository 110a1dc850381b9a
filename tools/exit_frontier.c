/* SPDX-License-Identifier: Apache-2.0
 * exit_frontier.c - see exit_frontier.h; choosing is in exit_choice.c.
 */
#include "tools/exit_frontier.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/memory.h"
#include "tools/rouge.h"

/* What scoring needs. */
struct scoring {
    const struct exit_answers *a;
    struct rouge_text *full; /* [prompts->n] of the full model's answers */
    int32_t *tokens;         /* [max_tokens] */
    char *text;
    size_t cap;
};

/* ---- what a point comes to ---- */

static int
cut_answer(struct scoring *s, struct rouge_text *out, const int32_t *tokens, int n,
           struct err *err)
{
    const struct tokenizer *t = s->a->vocab;
    size_t len = 0;

    if (tokenizer_decode(t, tokens, (size_t)n, false, s->text, s->cap, &len) != 0) {
        mem_free(s->text);
        s->cap = 2 * len;
        s->text = mem_array_alloc(s->cap, 1);
        if (!s->text) {
            s->cap = 0;
            return err_set(err, CE_ENOMEM, "no memory for a text of %zu bytes", len);
        }
        if (tokenizer_decode(t, tokens, (size_t)n, false, s->text, s->cap, &len) != 0)
            return err_set(err, CE_EINTERNAL, "an answer's length changed");
    }
    return rouge_cut(out, s->text, len, err);
}

static bool
is_full_answer(const struct written *full, const int32_t *tokens, int n)
{
    return n == full->n && memcmp(tokens, full->tokens, (size_t)n * sizeof(*tokens)) == 0;
}

static int
score_answer(struct scoring *s, int i, struct exit_point *p, struct err *err)
{
    int n = exit_answers_read(s->a, i, &p->setting, s->tokens, &p->tally), rc;
    struct rouge_text text = { 0 };
    double f1 = 1;

    if (is_full_answer(&s->a->full[i], s->tokens, n)) {
        p->identical += 1;
        p->rouge_l += 1;
        return 0;
    }
    rc = cut_answer(s, &text, s->tokens, n, err);
    if (rc == 0)
        rc = rouge_l(&f1, &text, &s->full[i], err);
    p->rouge_l += f1;
    rouge_free(&text);
    return rc;
}

static int
score(struct exit_frontier *f, struct scoring *s, struct exit_point *p,
      const struct exit_costs *costs, struct err *err)
{
    int n = s->a->prompts->n, rc = 0;

    for (int i = 0; rc == 0 && i < n; i++)
        rc = score_answer(s, i, p, err);
    p->rouge_l /= n;
    p->identical /= n;
    p->request_rate = (double)p->tally.n_requests / (double)p->tally.n_tokens;
    p->edge_blocks = exit_frontier_edge_blocks(f, &p->setting, &p->tally, costs);
    return rc;
}

/* The exit where the edge ends: the last that is on. */
static int
last_on(const struct exit_setting *s, int n_exits)
{
    int k = n_exits - 1;

    while (k > 0 && s->theta[k] >= 1)
        k--;
    return k;
}

double
exit_frontier_edge_blocks(const struct exit_frontier *f, const struct exit_setting *s,
                          const struct exit_tally *t, const struct exit_costs *costs)
{
    int last = last_on(s, f->n_exits), to = f->layers[last];
    double blocks = (double)t->n_requests * to, on = (double)t->n_tokens;

    for (int k = 0; k <= last; k++) {
        double leave = (double)t->left[k];
        double check = costs->check_blocks, screen = costs->screen_blocks;

        if (s->theta[k] >= 1)
            continue;
        blocks += leave * (f->layers[k] + (to - f->layers[k]) * costs->row_blocks);
        blocks += f->screens[k] ? on * screen + leave * check : on * check;
        on -= leave;
    }
    return blocks / (double)t->n_tokens;
}

static void
mark_best(struct exit_frontier *f)
{
    for (int i = 0; i < f->n; i++) {
        struct exit_point *p = &f->points[i];

        p->best = true;
        for (int j = 0; p->best && j < f->n; j++) {
            const struct exit_point *q = &f->points[j];
            bool as_good = q->request_rate <= p->request_rate && q->rouge_l >= p->rouge_l;
            bool better = q->request_rate < p->request_rate || q->rouge_l > p->rouge_l;

            if (as_good && (better || j < i)) /* of equals the first */
                p->best = false;
        }
    }
}

/* ---- which points ---- */

static struct exit_setting
all_off(void)
{
    struct exit_setting s;

    for (int k = 0; k < MODEL_MAX_EXITS; k++)
        s.theta[k] = 1;
    return s;
}

/* Room for n more. */
static int
grow(struct exit_frontier *f, int n, struct err *err)
{
    struct exit_point *more =
        mem_array_resize(f->points, (size_t)f->n + (size_t)n, sizeof(*more));

    if (!more)
        return err_set(err, CE_ENOMEM, "no memory for %d settings", f->n + n);
    f->points = more;
    return 0;
}

static void
add_point(struct exit_frontier *f, struct exit_setting s)
{
    f->points[f->n++] = (struct exit_point){ .setting = s };
}

/* Run and score the points from `first`. */
static int
finish_points(struct exit_frontier *f, int first, struct exit_answers *a,
              struct scoring *s, const struct exit_costs *costs, struct err *err)
{
    int n = f->n - first, rc;
    struct exit_setting *settings = mem_array_alloc((size_t)n, sizeof(*settings));

    if (!settings)
        return err_set(err, CE_ENOMEM, "no memory for %d settings", n);
    for (int i = 0; i < n; i++)
        settings[i] = f->points[first + i].setting;
    rc = exit_answers_complete(a, settings, n, err);
    for (int i = first; rc == 0 && i < f->n; i++)
        rc = score(f, s, &f->points[i], costs, err);
    mem_free(settings);
    return rc;
}

/* Exits alone: points 1 + k * n_thetas + t. */
static int
add_lone(struct exit_frontier *f, const struct exit_frontier_params *p, struct err *err)
{
    int rc = grow(f, 1 + f->n_exits * p->n_thetas, err);

    if (rc != 0)
        return rc;
    add_point(f, all_off());
    for (int k = 0; k < f->n_exits; k++) {
        for (int t = 0; t < p->n_thetas; t++) {
            struct exit_setting s = all_off();

            s.theta[k] = p->thetas[t];
            add_point(f, s);
        }
    }
    return 0;
}

static int
add_pairs(struct exit_frontier *f, const struct exit_frontier_params *p, int k, int m,
          struct err *err)
{
    int rc = grow(f, p->n_thetas * p->n_thetas, err);

    for (int t = 0; rc == 0 && t < p->n_thetas; t++) {
        const struct exit_point *one = &f->points[1 + k * p->n_thetas + t];

        for (int u = 0; one->rouge_l >= p->floor && u < p->n_thetas; u++) {
            const struct exit_point *other = &f->points[1 + m * p->n_thetas + u];
            struct exit_setting s = one->setting;

            s.theta[m] = p->thetas[u];
            if (other->rouge_l >= p->floor)
                add_point(f, s);
        }
    }
    return rc;
}

static int
cut_full_answers(struct scoring *s, struct err *err)
{
    int n = s->a->prompts->n, rc = 0;

    s->full = mem_array_alloc((size_t)n, sizeof(*s->full));
    s->tokens = mem_array_alloc((size_t)s->a->max_tokens, sizeof(*s->tokens));
    if (!s->full || !s->tokens)
        return err_set(err, CE_ENOMEM, "no memory for %d texts", n);
    for (int i = 0; rc == 0 && i < n; i++)
        rc = cut_answer(s, &s->full[i], s->a->full[i].tokens, s->a->full[i].n, err);
    return rc;
}

static void
end_scoring(struct scoring *s)
{
    for (int i = 0; s->full && i < s->a->prompts->n; i++)
        rouge_free(&s->full[i]);
    mem_free(s->full);
    mem_free(s->tokens);
    mem_free(s->text);
}

int
exit_frontier_make(struct exit_frontier *out, struct exit_answers *a,
                   const struct exit_frontier_params *p, struct err *err)
{
    struct scoring s = { .a = a };
    int rc, first;

    *out = (struct exit_frontier){ .layers = p->layers,
                                   .screens = p->screens,
                                   .n_exits = a->n_exits };
    rc = cut_full_answers(&s, err);
    if (rc == 0)
        rc = add_lone(out, p, err);
    if (rc == 0)
        rc = finish_points(out, 0, a, &s, &p->costs, err);
    first = out->n;
    for (int k = 0; k < out->n_exits; k++) {
        for (int m = k + 1; rc == 0 && m < out->n_exits; m++)
            rc = add_pairs(out, p, k, m, err);
    }
    if (rc == 0 && out->n > first)
        rc = finish_points(out, first, a, &s, &p->costs, err);
    if (rc == 0)
        mark_best(out);
    end_scoring(&s);
    return rc;
}

void
exit_frontier_free(struct exit_frontier *f)
{
    mem_free(f->points);
    *f = (struct exit_frontier){ 0 };
}

const char *
exit_frontier_theta(char *out, size_t cap, const struct exit_frontier *f,
                    const struct exit_setting *s)
{
    size_t n = 0;

    out[0] = '\0';
    for (int k = 0; k < f->n_exits && n < cap; k++)
        n += (size_t)snprintf(out + n, cap - n, "%s%d=%g", k > 0 ? "," : "", f->layers[k],
                              s->theta[k]);
    return out;
}
