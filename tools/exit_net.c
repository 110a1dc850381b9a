/* SPDX-License-Identifier: Apache-2.0
 * exit_net.c - see exit_net.h.
 *
 * Products are BLAS's. Rows are shared out for the way there and back, outputs of the
 * matrices for the gradients: every number is made by one thread from all rows in one
 * order, so the bits do not depend on the number of threads, and there is one gradient
 * instead of one for each thread.
 */
#include "tools/exit_net.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

#include "common/memory.h"
#include "common/random.h"

#define RMS_EPS 1e-5f /* doc/NUMERICS.md, 10 */
#define TILE    96    /* outputs of a matrix whose gradient is made at once */

int
exit_net_init(struct exit_net *e, size_t d, size_t w)
{
    size_t wide, n;

    memset(e, 0, sizeof(*e));
    if (__builtin_mul_overflow(w, 3, &wide) || __builtin_add_overflow(wide, d + 1, &n) ||
        __builtin_mul_overflow(n, d, &n))
        return CE_ENOMEM;
    e->d = d;
    e->w = w;
    e->n = n;
    e->p = mem_array_alloc(n, sizeof(float));
    e->mean = mem_array_alloc(d, sizeof(float));
    e->sigma = mem_array_alloc(d, sizeof(float));
    e->tau = mem_array_alloc(d, sizeof(float));
    if (!e->p || !e->mean || !e->sigma || !e->tau) {
        exit_net_fini(e);
        return CE_ENOMEM;
    }
    for (size_t i = 0; i < d; i++)
        e->sigma[i] = e->tau[i] = 1;
    return 0;
}

void
exit_net_fini(struct exit_net *e)
{
    mem_free(e->p);
    mem_free(e->mean);
    mem_free(e->sigma);
    mem_free(e->tau);
    memset(e, 0, sizeof(*e));
}

static float *
rows_alloc(size_t max, size_t n)
{
    size_t total;

    return __builtin_mul_overflow(max, n, &total)
               ? NULL
               : mem_aligned_alloc(total, sizeof(float));
}

int
exit_net_rows_init(struct exit_net_rows *r, const struct exit_net *e, size_t max)
{
    r->s = rows_alloc(max, e->d);
    r->t = rows_alloc(max, e->d);
    r->z = rows_alloc(max, e->d);
    r->gate = rows_alloc(max, e->w);
    r->up = rows_alloc(max, e->w);
    r->mid = rows_alloc(max, e->w);
    if (r->s && r->t && r->z && r->gate && r->up && r->mid)
        return 0;
    exit_net_rows_fini(r);
    return CE_ENOMEM;
}

void
exit_net_rows_fini(struct exit_net_rows *r)
{
    mem_free(r->s);
    mem_free(r->t);
    mem_free(r->z);
    mem_free(r->gate);
    mem_free(r->up);
    mem_free(r->mid);
    memset(r, 0, sizeof(*r));
}

void
exit_net_put(const struct exit_net *e, const struct kernels *k,
             const struct exit_net_rows *r, size_t i, const float *x)
{
    float *s = r->s + i * e->d, *t = r->t + i * e->d;

    k->rmsnorm(t, x, NULL, e->d, RMS_EPS);
    for (size_t j = 0; j < e->d; j++) {
        s[j] = (x[j] - e->mean[j]) / e->sigma[j];
        t[j] /= e->tau[j];
    }
}

/* y [n, out] (+)= x [n, in] m^T, with m [out, in]. */
static void
through(float *y, const float *x, const float *m, size_t n, size_t in, size_t out,
        float keep)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)out, (int)in, 1, x,
                (int)in, m, (int)in, keep, y, (int)out);
}

static void
drop_some(float *x, size_t w, size_t first, size_t n, struct exit_net_drop drop)
{
    float grow = 256.0f / (float)(256 - drop.n_of_256);

    for (size_t r = 0; drop.n_of_256 > 0 && r < n; r++) {
        uint64_t state = drop.salt + (first + r) * 0x9e3779b97f4a7c15u, bits = 0;

        for (size_t j = 0; j < w; j++, bits >>= 8) {
            if (j % 8 == 0)
                bits = random_next(&state);
            x[r * w + j] = (bits & 0xff) < drop.n_of_256 ? 0 : grow * x[r * w + j];
        }
    }
}

void
exit_net_forward(const struct exit_net *e, const struct kernels *k,
                 const struct exit_net_rows *r, size_t from, size_t n,
                 struct exit_net_drop drop)
{
    const size_t d = e->d, w = e->w;
    const float *t = r->t + from * d;
    float *z = r->z + from * d;

    for (size_t i = 0; i < n; i++)
        memcpy(z + i * d, e->p + exit_net_bias_at(e), d * sizeof(*z));
    through(z, r->s + from * d, e->p, n, d, d, 1);
    if (w == 0)
        return;
    through(r->gate + from * w, t, e->p + exit_net_gate_at(e), n, d, w, 0);
    through(r->up + from * w, t, e->p + exit_net_up_at(e), n, d, w, 0);
    k->swiglu(r->mid + from * w, r->gate + from * w, r->up + from * w, n * w);
    drop_some(r->mid + from * w, w, from, n, drop);
    through(z, r->mid + from * w, e->p + exit_net_down_at(e), n, w, d, 1);
}

/* Gradients of gate and up from that of silu(gate) * up. */
static void
swiglu_back(float *restrict gate, float *restrict up, const float *restrict silu,
            const float *restrict mid, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float g = gate[i], u = up[i];
        float sigmoid = fabsf(g) > 1e-12f ? silu[i] / g : 0.5f;

        up[i] = mid[i] * silu[i];
        gate[i] = mid[i] * u * (sigmoid + silu[i] * (1 - sigmoid));
    }
}

void
exit_net_backward(const struct exit_net *e, const struct kernels *k,
                  const struct exit_net_rows *r, size_t from, size_t n, float *room,
                  struct exit_net_drop drop)
{
    const size_t d = e->d, w = e->w;
    float *mid = room, *silu = room + n * w;

    if (w == 0)
        return;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)w, (int)d, 1,
                r->z + from * d, (int)d, e->p + exit_net_down_at(e), (int)w, 0, mid,
                (int)w);
    drop_some(mid, w, from, n, drop);
    for (size_t i = 0; i < n * w; i++)
        silu[i] = 1;
    k->swiglu(silu, r->gate + from * w, silu, n * w);
    swiglu_back(r->gate + from * w, r->up + from * w, silu, mid, n * w);
}

static size_t
tiles_of(size_t rows)
{
    return (rows + TILE - 1) / TILE;
}

size_t
exit_net_n_tiles(const struct exit_net *e)
{
    return e->w == 0 ? tiles_of(e->d) : 2 * tiles_of(e->d) + 2 * tiles_of(e->w);
}

static double
sum_of_squares(const float *x, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}

/* Rows [tile * TILE, ...) of grad [out, in] = scale * dy^T x. */
static double
matrix_tile(float *grad, const float *dy, size_t out, const float *x, size_t in, size_t n,
            size_t tile, float scale)
{
    size_t first = tile * TILE, rows = out - first < TILE ? out - first : TILE;

    grad += first * in;
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)rows, (int)in, (int)n,
                scale, dy + first, (int)out, x, (int)in, 0, grad, (int)in);
    return sum_of_squares(grad, rows * in);
}

static double
bias_tile(float *grad, const float *dz, size_t d, size_t n, size_t tile, float scale)
{
    size_t first = tile * TILE, wide = d - first < TILE ? d - first : TILE;

    memset(grad + first, 0, wide * sizeof(*grad));
    for (size_t i = 0; i < n; i++) {
        for (size_t j = first; j < first + wide; j++)
            grad[j] += scale * dz[i * d + j];
    }
    return sum_of_squares(grad + first, wide);
}

double
exit_net_gradient(const struct exit_net *e, const struct exit_net_rows *r, size_t n,
                  size_t tile, float scale, float *grad)
{
    const size_t d = e->d, w = e->w, td = tiles_of(d), tw = tiles_of(w);

    if (tile < td)
        return bias_tile(grad + exit_net_bias_at(e), r->z, d, n, tile, scale) +
               matrix_tile(grad, r->z, d, r->s, d, n, tile, scale);
    tile -= td;
    if (tile < td)
        return matrix_tile(grad + exit_net_down_at(e), r->z, d, r->mid, w, n, tile,
                           scale);
    tile -= td;
    if (tile < tw)
        return matrix_tile(grad + exit_net_gate_at(e), r->gate, w, r->t, d, n, tile,
                           scale);
    return matrix_tile(grad + exit_net_up_at(e), r->up, w, r->t, d, n, tile - tw, scale);
}

/* ---- as it is stored ---- */

/* out [rows, d] = m [rows, d] with its columns divided by `by`. */
static float *
divided(const float *m, size_t rows, size_t d, const float *by)
{
    float *out = mem_array_alloc(rows * d, sizeof(*out));

    for (size_t i = 0; out && i < rows; i++) {
        for (size_t j = 0; j < d; j++)
            out[i * d + j] = m[i * d + j] / by[j];
    }
    return out;
}

int
exit_net_fold(const struct exit_net *e, const float *p, struct exit_adapter *out)
{
    const size_t d = e->d, w = e->w;

    out->d = d;
    out->w = w;
    out->map = divided(p, d, d, e->sigma);
    out->bias = mem_array_alloc(d, sizeof(float));
    if (!out->map || !out->bias)
        return CE_ENOMEM;
    for (size_t i = 0; i < d; i++) {
        double b = (double)p[exit_net_bias_at(e) + i];

        for (size_t j = 0; j < d; j++)
            b -= (double)out->map[i * d + j] * (double)e->mean[j];
        out->bias[i] = (float)b;
    }
    if (w == 0)
        return 0;
    out->gate = divided(p + exit_net_gate_at(e), w, d, e->tau);
    out->up = divided(p + exit_net_up_at(e), w, d, e->tau);
    out->down = mem_array_alloc(d * w, sizeof(float));
    if (!out->gate || !out->up || !out->down)
        return CE_ENOMEM;
    memcpy(out->down, p + exit_net_down_at(e), d * w * sizeof(float));
    return 0;
}
