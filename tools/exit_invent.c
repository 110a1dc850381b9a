/* SPDX-License-Identifier: Apache-2.0
 * exit_invent.c - see exit_invent.h.
 */
#include "tools/exit_invent.h"

#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "common/random.h"
#include "engine/sampler.h"
#include "tools/answer_batch.h"
#include "tools/progress.h"

#define MAX_TOKENS  64  /* of an instruction */
#define MAX_CONTEXT 512 /* of what stands before it */
#define N_TOP       128
#define MAX_TEXT    4096
#define TRIES       3 /* for each prompt wanted: many come out twice, or end too late */

struct idea;

struct run {
    const struct exit_invent *e;
    struct exit_prompts *p;
    size_t n_given; /* prompts to begin like */
    size_t started, most, wanted, made;
    uint64_t random;
    char *before; /* the template up to a user's words */
    size_t n_before;
    struct idea *ideas; /* [width] */
    struct sampler_params sampler;
    struct progress progress;
    struct err err; /* the first, from callbacks that return none */
    int rc;
};

struct idea {
    size_t number, n_start; /* bytes of the given beginning */
    char start[256];
    int32_t prompt[MAX_CONTEXT], output[MAX_TOKENS];
    bool ended, busy;
};

/* The template with a user's message, cut off before it. */
static int
cut_template(struct run *r, struct err *err)
{
    struct chat_message m = { "user", "x", 1 };
    struct text_range *literal = NULL;
    size_t len, n;
    int rc = chat_template_render(r->e->chat, &m, 1, false, &r->before, &len, &literal,
                                  &n, err);

    if (rc == 0 && n != 1)
        rc = err_set(err, CE_EINTERNAL, "the chat template has %zu places for a message",
                     n);
    if (rc == 0)
        r->n_before = literal[0].from;
    free(literal);
    return rc;
}

/* The first one to three words of a given prompt; one in four times none. */
static void
choose_start(struct run *r, struct idea *idea)
{
    uint64_t dice = random_next(&r->random);
    size_t words = (size_t)(dice % 4), n = 0, i = 0;
    const char *from;

    idea->n_start = 0;
    if (words == 0 || r->n_given == 0)
        return;
    from = r->p->list[(dice >> 8) % r->n_given];
    for (; from[i] && from[i] != '\n' && i < sizeof(idea->start); i++) {
        if (from[i] == ' ' && ++n == words)
            break;
    }
    if (i == sizeof(idea->start))
        return;
    memcpy(idea->start, from, i);
    idea->n_start = i;
}

static int
encode(const struct run *r, struct idea *idea, int *n_prompt, struct err *err)
{
    const struct tokenizer *t = r->e->vocab;
    struct text_range literal = { r->n_before, r->n_before + idea->n_start };
    char *text = mem_array_alloc(literal.to, 1);
    size_t n = 0, bos = 0;
    int rc;

    if (!text)
        return err_set(err, CE_ENOMEM, "no memory for a prompt");
    memcpy(text, r->before, r->n_before);
    memcpy(text + r->n_before, idea->start, idea->n_start);
    if (tokenizer_add_bos(t) && tokenizer_bos(t) != TOKENIZER_NONE)
        idea->prompt[bos++] = tokenizer_bos(t);
    rc = tokenizer_encode_ranges(t, text, literal.to, &literal, 1, idea->prompt + bos,
                                 MAX_CONTEXT - bos, &n, err);
    mem_free(text);
    /* Templates that bring it themselves. */
    if (rc == 0 && bos == 1 && n > 0 && idea->prompt[1] == idea->prompt[0])
        memmove(idea->prompt, idea->prompt + 1, n-- * sizeof(idea->prompt[0]));
    *n_prompt = (int)(n + bos);
    return rc;
}

static bool
stopped(const struct run *r)
{
    return r->rc != 0 || (r->e->stop && *r->e->stop);
}

static bool
next_idea(void *ctx, struct answer *a)
{
    struct run *r = ctx;
    struct idea *idea = r->ideas;

    if (stopped(r) || r->made >= r->wanted || r->started == r->most)
        return false;
    while (idea->busy) /* one is free: at most `width` run */
        idea++;
    idea->number = r->started++;
    choose_start(r, idea);
    r->rc = encode(r, idea, &a->n_prompt, &r->err);
    if (r->rc != 0)
        return false;
    idea->busy = true;
    idea->ended = false;
    a->prompt = idea->prompt;
    a->output = idea->output;
    a->max_output = MAX_TOKENS;
    a->user = idea;
    return true;
}

/* Would an empty line end the text, were `id` put behind the answer? */
static bool
ends_paragraph(const struct tokenizer *t, const struct answer *a, int32_t id)
{
    size_t len, before = 0;
    const char *piece = tokenizer_piece(t, id, &len), *last;

    if (memmem(piece, len, "\n\n", 2))
        return true;
    if (a->n_output == 0 || len == 0 || piece[0] != '\n')
        return false;
    last = tokenizer_piece(t, a->output[a->n_output - 1], &before);
    return before > 0 && last[before - 1] == '\n';
}

static int32_t
choose(void *ctx, struct answer *a, const struct staged *s, int row, int state_row)
{
    struct run *r = ctx;
    struct idea *idea = a->user;
    const struct head_result *h = &s->results[s->n_stops - 1][row];
    int32_t ids[N_TOP], id;
    float logits[N_TOP];

    (void)state_row;
    if (stopped(r) || h->argmax < 0 || h->n_top < 1)
        return -1;
    for (int i = 0; i < h->n_top; i++) {
        ids[i] = h->top[i].id;
        logits[i] = h->top[i].logit;
    }
    id = sampler_pick(&r->sampler, &(struct sampler_row){ h->n_top, ids, logits, h->lse },
                      NULL, 0, (uint32_t)idea->number, (uint32_t)a->n_output, NULL);
    idea->ended = tokenizer_is_end_of_generation(r->e->vocab, id) ||
                  tokenizer_is_special(r->e->vocab, id) ||
                  ends_paragraph(r->e->vocab, a, id);
    return idea->ended ? -1 : id;
}

static int
keep_idea(void *ctx, struct answer *a, struct err *err)
{
    struct run *r = ctx;
    struct idea *idea = a->user;
    char text[sizeof(idea->start) + MAX_TEXT];
    size_t n = 0;
    bool added = false;
    int rc = 0;

    memcpy(text, idea->start, idea->n_start);
    if (idea->ended && r->made < r->wanted &&
        tokenizer_decode(r->e->vocab, a->output, (size_t)a->n_output, false,
                         text + idea->n_start, MAX_TEXT, &n) == 0 &&
        exit_prompts_words(text, idea->n_start + n) >= EXIT_PROMPTS_MIN_WORDS)
        rc = exit_prompts_add(r->p, text, idea->n_start + n, &added, err);
    r->made += added;
    progress_set(&r->progress, r->made, NULL);
    idea->busy = false;
    return rc;
}

int
exit_invent_run(const struct exit_invent *e, struct exit_prompts *p, size_t n,
                struct err *err)
{
    struct run r = { .e = e,
                     .p = p,
                     .n_given = p->n,
                     .wanted = n,
                     .most = TRIES * n,
                     .ideas = mem_array_alloc((size_t)e->width, sizeof(*r.ideas)),
                     .random = e->seed ^ 0x696e76656e742121 };
    struct answer_batch batch = { .staged = e->staged,
                                  .vocab = e->vocab,
                                  .width = e->width,
                                  .n_top = N_TOP,
                                  .next = next_idea,
                                  .choose = choose,
                                  .done = keep_idea,
                                  .ctx = &r };
    int rc = cut_template(&r, err);

    sampler_params_init(&r.sampler);
    r.sampler.temperature = 1;
    r.sampler.top_p = 0.95;
    r.sampler.seed = e->seed;
    progress_start(&r.progress, "inventing prompts", n);
    if (rc == 0 && !r.ideas)
        rc = err_set(err, CE_ENOMEM, "no memory for %d prompts", e->width);
    if (rc == 0)
        rc = answer_batch_run(&batch, err);
    progress_end(&r.progress);
    free(r.before);
    mem_free(r.ideas);
    if (rc == 0 && r.rc != 0) {
        if (err)
            *err = r.err;
        rc = r.rc;
    }
    return rc;
}
