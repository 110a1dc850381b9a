/* SPDX-License-Identifier: Apache-2.0
 * screen_fit.c - see screen_fit.h.
 */
#include "tools/screen_fit.h"

#include "common/memory.h"
#include "engine/quant.h"
#include "tools/low_rank.h"
#include "tools/progress.h"

/* A screen from the exit's moment and the output matrix's gram. */
static int
fit_exit(struct exits_screen *s, const double *moment, const struct low_rank_matrix *w,
         const double *gram, const struct screen_fit_params *p, struct threads *pool,
         struct err *err)
{
    size_t d = w->cols, r = p->rank, down_bytes;
    float *down = mem_array_alloc(r * d, sizeof(*down));
    double *up = mem_array_alloc(d * r, sizeof(*up));
    void *d_rows, *u_rows;
    int rc = 0;

    s->up_type = p->up_type;
    s->down_type = d % QUANT_BLOCK == 0 ? GGUF_Q8_0 : GGUF_F16;
    down_bytes = quant_row_bytes(s->down_type, d);
    s->down = d_rows = mem_array_alloc(r, down_bytes);
    s->up = u_rows = mem_array_alloc(w->rows, quant_row_bytes(s->up_type, r));
    if (!down || !up || !d_rows || !u_rows)
        rc = err_set(err, CE_ENOMEM, "no memory for a screen of rank %zu", r);
    if (rc == 0)
        rc = low_rank_fit(down, up, moment, gram, d, r, p->seed, pool, err);
    if (rc == 0)
        rc = low_rank_project(u_rows, s->up_type, w, up, r, pool, err);
    for (size_t k = 0; rc == 0 && k < r; k++) {
        if (quant_quantise_row(s->down_type, down + k * d,
                               (unsigned char *)d_rows + k * down_bytes, d) != 0)
            rc = err_set(err, CE_EINTERNAL, "the fitted numbers are not finite");
    }
    mem_free(down);
    mem_free(up);
    return rc;
}

/* What all ids' logits have in common changes neither their order nor a probability. */
int
screen_fit_run(struct exits_screen *screens, const struct model *m,
               const struct screen_rows *rows, const struct screen_fit_params *p,
               struct threads *pool, struct err *err)
{
    size_t d = (size_t)m->config.d_model;
    double *gram = mem_array_alloc(d * d, sizeof(*gram));
    double *mean = mem_array_alloc(d, sizeof(*mean));
    struct low_rank_matrix w = { m->output->type, m->output->data,
                                 (size_t)m->config.n_vocab, d, NULL };
    struct progress progress;
    int rc = 0;

    if (!gram || !mean)
        rc = err_set(err, CE_ENOMEM, "no memory for %zu columns", d);
    progress_start(&progress, "fitting", (size_t)m->n_exits + 1);
    if (rc == 0)
        rc = low_rank_mean(mean, &w, err);
    w.less = mean;
    if (rc == 0)
        rc = low_rank_gram(gram, &w, pool, err);
    for (int i = 0; rc == 0 && i < m->n_exits; i++) {
        progress_set(&progress, (size_t)i + 1, NULL);
        rc = fit_exit(&screens[i], rows->moments[i], &w, gram, p, pool, err);
    }
    progress_end(&progress);
    mem_free(gram);
    mem_free(mean);
    return rc;
}

void
screen_fit_free(struct exits_screen *screens, int n)
{
    for (int i = 0; i < n; i++) {
        mem_free((void *)screens[i].down);
        mem_free((void *)screens[i].up);
        screens[i] = (struct exits_screen){ 0 };
    }
}
