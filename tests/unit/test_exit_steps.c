/* SPDX-License-Identifier: Apache-2.0
 * test_exit_steps.c - the parts of training exits, on a tiny model: gradients are those
 * that differences of the loss show, the cut loses little, the least-squares map is
 * exact where it can be, and an adapter as it is stored does what the one that learned
 * did.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/random.h"
#include "engine/backend.h"
#include "engine/synth.h"
#include "tests/unit/exit_rows_double.h"
#include "tools/exit_loss.h"
#include "tools/exit_net.h"
#include "tools/exit_start.h"

#define D     64
#define W     32
#define ROWS  7
#define N_TOP 16

struct world {
    struct model *m;
    struct threads *pool;
    const struct kernels *k;
    struct exit_loss *loss;
    struct exit_loss_room *room;
    struct exit_net net;
    struct exit_net_rows rows;
    int32_t ids[ROWS * N_TOP];
    float logp[ROWS * N_TOP], x[ROWS * D], scratch[2 * ROWS * W];
    struct exit_loss_row said[ROWS];
    struct exit_net_drop drop;
};

/* Uniform in [-1, 1). */
static float
draw(uint64_t *state)
{
    return (float)((double)(random_next(state) >> 11) * 0x1p-52 - 1);
}

/* Distinct ids with falling probabilities that sum up to 0.9. */
static void
draw_target(struct world *s, size_t row, int n_vocab, uint64_t *state)
{
    int32_t first = (int32_t)(random_next(state) % 97);

    for (int i = 0; i < N_TOP; i++) {
        s->ids[row * N_TOP + i] = (first + 19 * i) % n_vocab;
        s->logp[row * N_TOP + i] = (float)log(0.9 * pow(0.5, i + 1));
    }
}

static void
draw_net(struct exit_net *e, uint64_t *state)
{
    for (size_t i = 0; i < e->n; i++)
        e->p[i] = 0.3f * draw(state);
    for (size_t i = 0; i < e->d; i++) {
        e->mean[i] = draw(state);
        e->sigma[i] = 1.5f + draw(state);
        e->tau[i] = 1.5f + draw(state);
    }
}

static struct world *
world_new(uint32_t type, float cut)
{
    struct world *s = calloc(1, sizeof(*s));
    struct synth_params p;
    char path[] = "/tmp/exit_steps.XXXXXX";
    uint64_t state = 5;
    int fd = mkstemp(path);

    assert_non_null(s);
    assert_true(fd >= 0);
    close(fd);
    synth_params_init(&p);
    p.type = type;
    assert_int_equal(synth_model(&p, path, NULL), 0);
    assert_int_equal(model_open(&s->m, path, "none", NULL), 0);
    unlink(path);
    assert_int_equal(threads_new(&s->pool, 2, NULL), 0);
    assert_int_equal(kernels_choose(&s->k, NULL, NULL), 0);
    assert_int_equal(exit_loss_new(&s->loss, s->m, s->k, cut, s->pool, NULL), 0);
    assert_int_equal(exit_loss_room_new(&s->room, s->loss, ROWS), 0);
    assert_int_equal(exit_net_init(&s->net, D, W), 0);
    assert_int_equal(exit_net_rows_init(&s->rows, &s->net, ROWS), 0);
    draw_net(&s->net, &state);
    for (size_t i = 0; i < (size_t)ROWS * D; i++)
        s->x[i] = 3 * draw(&state);
    for (size_t r = 0; r < ROWS; r++) {
        draw_target(s, r, s->m->config.n_vocab, &state);
        exit_net_put(&s->net, s->k, &s->rows, r, s->x + r * D);
    }
    return s;
}

static void
world_free(struct world *s)
{
    exit_net_rows_fini(&s->rows);
    exit_net_fini(&s->net);
    exit_loss_room_free(s->room);
    exit_loss_free(s->loss);
    threads_free(s->pool);
    model_close(s->m);
    free(s);
}

/* The mean loss; with `gradient` rows.z and more become gradients. */
static double
run(struct world *s, bool gradient)
{
    double sum = 0;

    exit_net_forward(&s->net, s->k, &s->rows, 0, ROWS, s->drop);
    exit_loss_rows(s->loss, s->room, s->rows.z, ROWS, s->ids, s->logp, N_TOP, gradient,
                   s->said);
    if (gradient)
        exit_net_backward(&s->net, s->k, &s->rows, 0, ROWS, s->scratch, s->drop);
    for (int r = 0; r < ROWS; r++)
        sum += s->said[r].loss / ROWS;
    return sum;
}

/* Along each part's own gradient the loss rises as fast as the gradient says. */
static void
check_gradient(struct exit_net_drop drop)
{
    struct world *s = world_new(GGUF_F32, 0);
    const struct exit_net *e = &s->net;
    const size_t parts[] = { 0,
                             exit_net_bias_at(e),
                             exit_net_gate_at(e),
                             exit_net_up_at(e),
                             exit_net_down_at(e),
                             e->n };
    float *g = calloc(e->n, sizeof(*g)), *p = calloc(e->n, sizeof(*p));
    double all = 0, squares = 0;

    s->drop = drop;
    assert_non_null(g);
    assert_non_null(p);
    memcpy(p, e->p, e->n * sizeof(*p));
    run(s, true);
    for (size_t t = 0; t < exit_net_n_tiles(e); t++)
        squares += exit_net_gradient(e, &s->rows, ROWS, t, 1.0f / ROWS, g);
    for (int part = 0; part < 5; part++) {
        double norm = 0, up, down;
        const double step = 2e-2;

        for (size_t i = parts[part]; i < parts[part + 1]; i++)
            norm += (double)g[i] * (double)g[i];
        all += norm;
        norm = sqrt(norm);
        assert_true(norm > 1e-3);
        for (size_t i = parts[part]; i < parts[part + 1]; i++)
            e->p[i] = (float)((double)p[i] + step * (double)g[i] / norm);
        up = run(s, false);
        for (size_t i = parts[part]; i < parts[part + 1]; i++)
            e->p[i] = (float)((double)p[i] - step * (double)g[i] / norm);
        down = run(s, false);
        memcpy(e->p, p, e->n * sizeof(*p));
        assert_true(fabs((up - down) / (2 * step) / norm - 1) < 1e-2);
    }
    assert_true(fabs(all / squares - 1) < 1e-6);
    free(p);
    free(g);
    world_free(s);
}

static void
test_gradient(void **state)
{
    (void)state;
    check_gradient((struct exit_net_drop){ 0 });
}

/* A drop is a function, and what is 0 on the way there is 0 on the way back. */
static void
test_dropout(void **state)
{
    struct world *s = world_new(GGUF_F32, 0);
    size_t zeros = 0;
    double plain = run(s, false);

    (void)state;
    s->drop = (struct exit_net_drop){ 77, 64 };
    assert_true(run(s, false) != plain);
    for (size_t i = 0; i < (size_t)ROWS * W; i++)
        zeros += s->rows.mid[i] == 0;
    assert_in_range(zeros, ROWS * W / 8, ROWS * W * 3 / 8);
    world_free(s);
    check_gradient((struct exit_net_drop){ 77, 64 });
}

/* The loss of one row against the definition, by doubles. */
static void
test_loss(void **state)
{
    struct world *s = world_new(GGUF_F32, 0);
    const float *w = s->m->output->data, *norm = s->m->output_norm->data;
    size_t n_vocab = (size_t)s->m->config.n_vocab;
    double sum = 0, loss = 0, squares = 0, p_rest = 1, q_rest = 1;
    double *logits = calloc(n_vocab, sizeof(*logits));
    float z[D];

    (void)state;
    assert_non_null(logits);
    run(s, false);
    memcpy(z, s->rows.z, sizeof(z));
    for (int j = 0; j < D; j++)
        squares += (double)z[j] * (double)z[j];
    for (size_t i = 0; i < n_vocab; i++) {
        for (size_t j = 0; j < D; j++)
            logits[i] += (double)w[i * D + j] * (double)z[j] * (double)norm[j] /
                         sqrt(squares / D + (double)s->m->config.norm_eps);
        sum += exp(logits[i]);
    }
    for (int i = 0; i < N_TOP; i++) {
        double q = exp((double)s->logp[i]), p = exp(logits[s->ids[i]]) / sum;

        loss += q * log(q / p);
        q_rest -= q;
        p_rest -= p;
    }
    loss += q_rest * log(q_rest / p_rest);
    assert_true(fabs(s->said[0].loss - loss) < 1e-4);
    free(logits);
    world_free(s);
}

/* What the cut leaves points the same way, and what it lost is what it says. */
static void
test_cut(void **state)
{
    struct world *dense = world_new(GGUF_Q8_0, 0), *s = world_new(GGUF_Q8_0, 1e-3f);
    double inner = 0, a = 0, b = 0;

    (void)state;
    run(dense, true);
    run(s, true);
    for (size_t i = 0; i < (size_t)ROWS * D; i++) {
        inner += (double)dense->rows.z[i] * (double)s->rows.z[i];
        a += (double)dense->rows.z[i] * (double)dense->rows.z[i];
        b += (double)s->rows.z[i] * (double)s->rows.z[i];
    }
    assert_true(inner / sqrt(a * b) > 0.995);
    for (int r = 0; r < ROWS; r++) {
        assert_true(s->said[r].lost > 0 && dense->said[r].lost < 1e-5);
        assert_true(fabs(s->said[r].kept + s->said[r].lost - dense->said[r].kept) < 1e-4);
    }
    world_free(dense);
    world_free(s);
}

static void
test_least_squares(void **state)
{
    enum { N = 500 };
    struct exit_net e;
    struct exit_net_rows rows;
    const struct kernels *k;
    uint64_t seed = 3;
    double *xx = calloc((D + 1) * (D + 1), sizeof(*xx));
    double *xy = calloc((D + 1) * D, sizeof(*xy)), t2[D];
    float *a = calloc(D * D, sizeof(*a)), *x = calloc(N * (D + 1), sizeof(*x));
    float *y = calloc(N * D, sizeof(*y));

    (void)state;
    assert_true(xx && xy && a && x && y);
    assert_int_equal(kernels_choose(&k, NULL, NULL), 0);
    assert_int_equal(exit_net_init(&e, D, 0), 0);
    assert_int_equal(exit_net_rows_init(&rows, &e, N), 0);
    for (size_t i = 0; i < (size_t)D * D; i++)
        a[i] = draw(&seed);
    for (size_t i = 0; i < D; i++)
        t2[i] = 1;
    for (size_t r = 0; r < N; r++) {
        float *v = x + r * (D + 1);

        for (size_t i = 0; i < D; i++) /* some large, one that stands still */
            v[i] = i == 9 ? 7 : draw(&seed) * (i % 10 == 0 ? 300 : 1) + (float)i;
        v[D] = 1;
        for (size_t o = 0; o < D; o++) {
            for (size_t i = 0; i < D; i++)
                y[r * D + o] += a[o * D + i] * v[i] / (i % 10 == 0 ? 300 : 1);
        }
        for (size_t i = 0; i <= D; i++) {
            for (size_t j = 0; j <= D; j++)
                xx[i * (D + 1) + j] += (double)v[i] * (double)v[j];
            for (size_t j = 0; j < D; j++)
                xy[i * D + j] += (double)v[i] * (double)y[r * D + j];
        }
    }
    assert_int_equal(exit_start(&e, xx, xy, N, t2, 1), 0);
    for (size_t r = 0; r < N; r++)
        exit_net_put(&e, k, &rows, r, x + r * (D + 1));
    exit_net_forward(&e, k, &rows, 0, N, (struct exit_net_drop){ 0 });
    for (size_t i = 0; i < (size_t)N * D; i++)
        assert_true(fabsf(rows.z[i] - y[i]) < 0.02f);
    exit_net_rows_fini(&rows);
    exit_net_fini(&e);
    free(xx);
    free(xy);
    free(a);
    free(x);
    free(y);
}

/* z = map x + bias + down (silu(gate h) * (up h)) of the stored adapter, by doubles. */
static void
test_fold(void **state)
{
    struct world *s = world_new(GGUF_F32, 0);
    struct exit_adapter a = { 0 };

    (void)state;
    run(s, false);
    assert_int_equal(exit_net_fold(&s->net, s->net.p, &a), 0);
    for (size_t r = 0; r < ROWS; r++) {
        const float *x = s->x + r * D;
        double mid[W], squares = 0;

        for (int j = 0; j < D; j++)
            squares += (double)x[j] * (double)x[j];
        squares = sqrt(squares / D + 1e-5);
        for (int i = 0; i < W; i++) {
            double g = 0, u = 0;

            for (int j = 0; j < D; j++) {
                g += (double)a.gate[i * D + j] * (double)x[j] / squares;
                u += (double)a.up[i * D + j] * (double)x[j] / squares;
            }
            mid[i] = g / (1 + exp(-g)) * u;
        }
        for (int o = 0; o < D; o++) {
            double z = (double)a.bias[o];

            for (int j = 0; j < D; j++)
                z += (double)a.map[o * D + j] * (double)x[j];
            for (int i = 0; i < W; i++)
                z += (double)a.down[o * W + i] * mid[i];
            assert_true(fabs(z - (double)s->rows.z[r * D + (size_t)o]) < 1e-3);
        }
    }
    exit_adapter_free(&a);
    world_free(s);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradient),      cmocka_unit_test(test_dropout),
        cmocka_unit_test(test_loss),          cmocka_unit_test(test_cut),
        cmocka_unit_test(test_least_squares), cmocka_unit_test(test_fold),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
