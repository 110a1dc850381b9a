/* SPDX-License-Identifier: Apache-2.0
 * exit_answers.c - see exit_answers.h.
 *
 * Settings are completed in rounds. In each, every setting walks every prompt's tree as
 * far as it leads; where it leads to a place that nobody has written, a branch is made
 * and written under that setting's thresholds, all such branches side by side. Another
 * setting that comes to the same place waits for the next round, and may then follow the
 * new branch to its end or leave it for one more.
 */
#include "tools/exit_answers.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "common/memory.h"
#include "tools/answer_batch.h"
#include "tools/progress.h"

/* A branch to be written. */
struct job {
    struct written *to;
    const struct exit_setting *setting; /* NULL: the final head says all */
    const struct prompt *prompt;
    int32_t *ids; /* what comes before the branch; borrowed from the prompt or owned */
    int n_ids;
};

/* Those of a round. */
struct round {
    struct exit_answers *a;
    struct job *jobs; /* [cap] */
    int n, cap;
    int begun, done;
    struct progress progress;
};

/* ---- choosing ---- */

/* The head that decides, of n_exits + 1. */
static int
decide(const struct exit_setting *s, const struct heard *heard, int n_exits)
{
    for (int k = 0; s && k < n_exits; k++) {
        if (s->theta[k] < 1 && (double)heard[k].confidence >= s->theta[k])
            return k;
    }
    return n_exits;
}

static bool
is_over(const struct exit_answers *a, int32_t last, int n)
{
    return n == a->max_tokens || tokenizer_is_end_of_generation(a->vocab, last);
}

static struct written *
find_branch(const struct written *w, int at, int32_t first)
{
    struct written *c = w->children;

    while (c && (c->at != at || c->first != first))
        c = c->next;
    return c;
}

/* How far a walk came. */
struct walk {
    struct written *in; /* it would go on in, */
    int at;             /* after so many of its tokens, */
    int32_t next;       /* with this one, which begins a branch that is not there; or */
    bool complete;      /* it came to the answer's end */
};

static int
walk(const struct exit_answers *a, int prompt, const struct exit_setting *s,
     int32_t *tokens, struct exit_tally *tally, struct walk *out)
{
    struct written *w = &a->full[prompt];
    int n = 0, i = 0, n_heads = a->n_exits + 1;

    *out = (struct walk){ 0 };
    for (;;) {
        const struct heard *heard = &w->heard[(size_t)i * (size_t)n_heads];
        int by = decide(s, heard, a->n_exits);
        int32_t token = heard[by].argmax;

        if (tally) {
            tally->n_tokens++;
            if (by < a->n_exits)
                tally->left[by]++;
            else
                tally->n_requests++;
        }
        tokens[n++] = token;
        out->complete = is_over(a, token, n);
        if (out->complete)
            return n;
        if (token == w->tokens[i]) {
            i++;
            continue;
        }
        *out = (struct walk){ w, i, token, false };
        w = find_branch(w, i, token);
        if (!w || w->pending)
            return n;
        i = 0;
    }
}

/* ---- writing ---- */

static bool
next_job(void *ctx, struct answer *answer)
{
    struct round *r = ctx;
    struct job *j;

    if (r->begun == r->n)
        return false;
    j = &r->jobs[r->begun++];
    answer->prompt = j->ids;
    answer->n_prompt = j->n_ids;
    answer->output = j->to->tokens;
    answer->max_output = r->a->max_tokens - j->to->start;
    answer->user = j;
    r->a->n_rows += (size_t)j->n_ids;
    return true;
}

/* The probability of `id`, if it is one of the row's top. */
static float
mass_of(const struct head_result *h, int32_t id)
{
    for (int i = 0; i < h->n_top; i++) {
        if (h->top[i].id == id)
            return expf(h->top[i].logit - h->lse);
    }
    return 0;
}

static int32_t
choose_token(void *ctx, struct answer *answer, const struct staged *s, int row,
             int state_row)
{
    const struct round *r = ctx;
    const struct job *j = answer->user;
    int n_exits = r->a->n_exits;
    struct heard *heard = &j->to->heard[(size_t)answer->n_output * (size_t)(n_exits + 1)];

    (void)state_row;
    for (int k = 0; k <= n_exits; k++) {
        const struct head_result *h = &s->results[k][row];

        heard[k] = (struct heard){ h->argmax, h->confidence,
                                   mass_of(&s->results[n_exits][row], h->argmax) };
    }
    return heard[decide(j->setting, heard, n_exits)].argmax;
}

static int
job_done(void *ctx, struct answer *answer, struct err *err)
{
    struct round *r = ctx;
    struct job *j = answer->user;

    (void)err;
    j->to->n = answer->n_output;
    j->to->pending = false;
    r->a->n_rows += (size_t)answer->n_output;
    progress_set(&r->progress, (size_t)++r->done, NULL);
    return 0;
}

static int
run_round(struct round *r, const char *label, int n_top, struct err *err)
{
    struct answer_batch batch = { .staged = r->a->staged,
                                  .vocab = r->a->vocab,
                                  .width = r->a->width < r->n ? r->a->width : r->n,
                                  .n_top = n_top,
                                  .next = next_job,
                                  .choose = choose_token,
                                  .done = job_done,
                                  .ctx = r };
    int rc;

    progress_start(&r->progress, label, (size_t)r->n);
    rc = answer_batch_run(&batch, err);
    progress_end(&r->progress);
    return rc;
}

/* Room for what can come after w->start. */
static int
make_room(const struct exit_answers *a, struct written *w, struct err *err)
{
    size_t n = (size_t)(a->max_tokens - w->start);

    w->tokens = mem_array_alloc(n, sizeof(*w->tokens));
    w->heard = mem_array_alloc(n * (size_t)(a->n_exits + 1), sizeof(*w->heard));
    w->pending = true;
    if (!w->tokens || !w->heard)
        return err_set(err, CE_ENOMEM, "no memory for an answer of %zu tokens", n);
    return 0;
}

static struct job *
add_job(struct round *r, struct err *err)
{
    int cap = r->cap ? 2 * r->cap : 64;
    struct job *bigger;

    if (r->n == r->cap) {
        bigger = mem_array_resize(r->jobs, (size_t)cap, sizeof(*r->jobs));
        if (!bigger) {
            (void)err_set(err, CE_ENOMEM, "no memory for %d answers", cap);
            return NULL;
        }
        r->jobs = bigger;
        r->cap = cap;
    }
    r->jobs[r->n] = (struct job){ 0 };
    return &r->jobs[r->n];
}

/* The branch that `w` leads to; tokens: the answer so far, [n]. */
static int
add_branch(struct round *r, const struct walk *w, int prompt,
           const struct exit_setting *s, const int32_t *tokens, int n, struct err *err)
{
    const struct prompt *p = &r->a->prompts->list[prompt];
    struct job *j = add_job(r, err);
    struct written *branch = mem_array_alloc(1, sizeof(*branch));

    if (!j || !branch) {
        mem_free(branch);
        return err_set(err, CE_ENOMEM, "no memory for another answer");
    }
    *branch = (struct written){ .start = n,
                                .parent = w->in,
                                .at = w->at,
                                .first = w->next,
                                .next = w->in->children };
    w->in->children = branch;
    r->n++;
    *j = (struct job){ .to = branch, .setting = s, .prompt = p, .n_ids = p->n + n };
    j->ids = mem_array_alloc((size_t)j->n_ids, sizeof(*j->ids));
    if (!j->ids)
        return err_set(err, CE_ENOMEM, "no memory for %d ids", j->n_ids);
    memcpy(j->ids, p->ids, (size_t)p->n * sizeof(*j->ids));
    memcpy(j->ids + p->n, tokens, (size_t)n * sizeof(*j->ids));
    return make_room(r->a, branch, err);
}

/* All branches that settings lead to and that are not there. */
static int
gather(struct round *r, const struct exit_setting *settings, int n, int32_t *tokens,
       struct err *err)
{
    int rc = 0;

    for (int k = 0; rc == 0 && k < n; k++) {
        for (int i = 0; rc == 0 && i < r->a->prompts->n; i++) {
            struct walk w;
            int len = walk(r->a, i, &settings[k], tokens, NULL, &w);

            if (!w.complete && !find_branch(w.in, w.at, w.next))
                rc = add_branch(r, &w, i, &settings[k], tokens, len, err);
        }
    }
    return rc;
}

static void
end_round(struct round *r)
{
    for (int i = 0; i < r->n; i++) {
        if (r->jobs[i].prompt)
            mem_free(r->jobs[i].ids);
    }
    mem_free(r->jobs);
    *r = (struct round){ .a = r->a };
}

/* ---- the calls ---- */

int
exit_answers_begin(struct exit_answers *a, struct err *err)
{
    struct round r = { .a = a };
    char label[96];
    int rc = 0;

    a->n_exits = a->staged->n_stops - 1;
    a->full = mem_array_alloc((size_t)a->prompts->n, sizeof(*a->full));
    if (!a->full)
        return err_set(err, CE_ENOMEM, "no memory for %d answers", a->prompts->n);
    for (int i = 0; rc == 0 && i < a->prompts->n; i++) {
        struct job *j = add_job(&r, err);

        if (!j) {
            rc = CE_ENOMEM;
            break;
        }
        r.n++;
        j->to = &a->full[i];
        j->ids = a->prompts->list[i].ids;
        j->n_ids = a->prompts->list[i].n;
        rc = make_room(a, j->to, err);
    }
    snprintf(label, sizeof(label), "%s: the full model's answers", a->label);
    if (rc == 0)
        rc = run_round(&r, label, EXIT_ANSWERS_TOP, err);
    end_round(&r);
    return rc;
}

int
exit_answers_complete(struct exit_answers *a, const struct exit_setting *settings, int n,
                      struct err *err)
{
    int32_t *tokens = mem_array_alloc((size_t)a->max_tokens, sizeof(*tokens));
    struct round r = { .a = a };
    char label[96];
    bool more = true;
    int rc = tokens ? 0 : err_set(err, CE_ENOMEM, "no memory for an answer");

    for (int i = 1; rc == 0 && more; i++) {
        rc = gather(&r, settings, n, tokens, err);
        more = r.n > 0;
        snprintf(label, sizeof(label), "%s: answers with exits, round %d", a->label, i);
        if (rc == 0 && more)
            rc = run_round(&r, label, 0, err);
        end_round(&r);
    }
    mem_free(tokens);
    return rc;
}

int
exit_answers_read(const struct exit_answers *a, int i, const struct exit_setting *s,
                  int32_t *tokens, struct exit_tally *tally)
{
    struct walk w;

    return walk(a, i, s, tokens, tally, &w);
}

/* Leaves first, by the parents' pointers: trees may be deep. */
static void
free_tree(struct written *root)
{
    struct written *w = root;

    for (;;) {
        struct written *up = w->parent, *child = w->children;

        if (child) {
            w->children = child->next;
            w = child;
            continue;
        }
        mem_free(w->tokens);
        mem_free(w->heard);
        if (w == root)
            return;
        mem_free(w);
        w = up;
    }
}

void
exit_answers_free(struct exit_answers *a)
{
    for (int i = 0; a->full && i < a->prompts->n; i++)
        free_tree(&a->full[i]);
    mem_free(a->full);
    a->full = NULL;
}
