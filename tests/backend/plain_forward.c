/* SPDX-License-Identifier: Apache-2.0
 * plain_forward.c - no cache, no batches, no quantised activations: every position
 * from the start, every weight decoded to double.
 */
#include "tests/backend/plain_forward.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "engine/quant.h"

struct plain {
    const struct model *m;
    int n;     /* positions */
    double *x; /* [n, d_model] */
};

/* y[r] = W x[r] for n rows. */
static void
product(double *y, const struct gguf_tensor *w, const double *x, int n)
{
    size_t cols = w->ne[0], rows = w->ne[1], bytes = quant_row_bytes(w->type, cols);
    float *line = malloc(cols * sizeof(*line));

    for (size_t o = 0; line && o < rows; o++) {
        quant_dequantise_row(w->type, (const char *)w->data + o * bytes, line, cols);
        for (int r = 0; r < n; r++) {
            double sum = 0;

            for (size_t i = 0; i < cols; i++)
                sum += (double)line[i] * x[(size_t)r * cols + i];
            y[(size_t)r * rows + o] = sum;
        }
    }
    free(line);
}

/* y = rms(x) * weight; without weight when it is NULL. */
static void
rms(double *y, const double *x, const struct gguf_tensor *weight, size_t d, int n,
    double eps)
{
    const float *w = weight ? weight->data : NULL;

    for (int r = 0; r < n; r++) {
        const double *in = x + (size_t)r * d;
        double sum = 0, scale;

        for (size_t i = 0; i < d; i++)
            sum += in[i] * in[i];
        scale = 1 / sqrt(sum / (double)d + eps);
        for (size_t i = 0; i < d; i++)
            y[(size_t)r * d + i] = in[i] * scale * (w ? (double)w[i] : 1.0);
    }
}

static void
turn(const struct model *m, double *x, int n_heads, int n)
{
    const struct model_config *c = &m->config;
    const float *divisors = m->rope_freqs ? m->rope_freqs->data : NULL;
    int half = c->n_rot / 2;

    for (int p = 0; p < n; p++) {
        for (int h = 0; h < n_heads; h++) {
            double *head = x + (size_t)(p * n_heads + h) * (size_t)c->head_dim;

            for (int i = 0; i < half; i++) {
                int first = c->rope_halves ? i : 2 * i;
                int second = c->rope_halves ? i + half : first + 1;
                double angle = p * pow((double)c->rope_base, -2.0 * i / c->n_rot) /
                               (double)c->rope_factor /
                               (divisors ? (double)divisors[i] : 1);
                double a = head[first], b = head[second];

                head[first] = a * cos(angle) - b * sin(angle);
                head[second] = a * sin(angle) + b * cos(angle);
            }
        }
    }
}

/* x[r] += bias for n rows; nothing when it is NULL. */
static void
add_bias(double *x, const struct gguf_tensor *bias, int n)
{
    for (size_t i = 0; bias && i < (size_t)n * bias->ne[0]; i++)
        x[i] += (double)((const float *)bias->data)[i % bias->ne[0]];
}

/* out, q: [n, n_heads, head_dim]; k, v: [n, n_kv_heads, head_dim]. */
static void
attend(const struct model_config *c, double *out, const double *q, const double *k,
       const double *v, int n)
{
    size_t hd = (size_t)c->head_dim;
    double *p = malloc((size_t)n * sizeof(*p));

    for (int t = 0; p && t < n; t++) {
        for (int h = 0; h < c->n_heads; h++) {
            int kv = h / (c->n_heads / c->n_kv_heads);
            const double *qh = q + (size_t)(t * c->n_heads + h) * hd;
            double *oh = out + (size_t)(t * c->n_heads + h) * hd, top = -INFINITY,
                   sum = 0;

            for (int j = 0; j <= t; j++) {
                const double *kh = k + (size_t)(j * c->n_kv_heads + kv) * hd;

                p[j] = 0;
                for (size_t i = 0; i < hd; i++)
                    p[j] += qh[i] * kh[i];
                p[j] /= sqrt((double)hd);
                top = fmax(top, p[j]);
            }
            for (int j = 0; j <= t; j++)
                sum += p[j] = exp(p[j] - top);
            memset(oh, 0, hd * sizeof(*oh));
            for (int j = 0; j <= t; j++) {
                const double *vh = v + (size_t)(j * c->n_kv_heads + kv) * hd;

                for (size_t i = 0; i < hd; i++)
                    oh[i] += p[j] / sum * vh[i];
            }
        }
    }
    free(p);
}

/* out = down(silu(gate x) * (up x)). */
static void
gated(double *out, const struct gguf_tensor *gate, const struct gguf_tensor *up,
      const struct gguf_tensor *down, const double *x, int n)
{
    size_t w = gate->ne[1];
    double *g = malloc(w * (size_t)n * sizeof(*g)),
           *u = malloc(w * (size_t)n * sizeof(*u));

    if (g && u) {
        product(g, gate, x, n);
        product(u, up, x, n);
        for (size_t i = 0; i < w * (size_t)n; i++)
            g[i] = g[i] / (1 + exp(-g[i])) * u[i];
        product(out, down, g, n);
    }
    free(g);
    free(u);
}

static void
block(struct plain *s, int layer)
{
    const struct model_block *b = &s->m->blocks[layer];
    const struct model_config *c = &s->m->config;
    size_t d = (size_t)c->d_model, hd = (size_t)c->head_dim, n = (size_t)s->n;
    size_t qd = (size_t)c->n_heads * hd, kd = (size_t)c->n_kv_heads * hd;
    double *mem = malloc(n * (2 * d + 2 * qd + 2 * kd) * sizeof(*mem));
    double *norm = mem, *y = norm + n * d, *q = y + n * d, *out = q + n * qd,
           *k = out + n * qd, *v = k + n * kd;

    if (!mem)
        return;
    rms(norm, s->x, b->attn_norm, d, s->n, (double)c->norm_eps);
    product(q, b->q, norm, s->n);
    product(k, b->k, norm, s->n);
    product(v, b->v, norm, s->n);
    add_bias(q, b->q_bias, s->n);
    add_bias(k, b->k_bias, s->n);
    add_bias(v, b->v_bias, s->n);
    if (b->q_norm)
        rms(q, q, b->q_norm, hd, s->n * c->n_heads, (double)c->norm_eps);
    if (b->k_norm)
        rms(k, k, b->k_norm, hd, s->n * c->n_kv_heads, (double)c->norm_eps);
    if (c->rope_skip == 0 || (layer + 1) % c->rope_skip != 0) {
        turn(s->m, q, c->n_heads, s->n);
        turn(s->m, k, c->n_kv_heads, s->n);
    }
    attend(c, out, q, k, v, s->n);
    product(y, b->attn_output, out, s->n);
    add_bias(y, b->output_bias, s->n);
    for (size_t i = 0; i < n * d; i++)
        s->x[i] += y[i];
    rms(norm, s->x, b->ffn_norm, d, s->n, (double)c->norm_eps);
    gated(y, b->gate, b->up, b->down, norm, s->n);
    for (size_t i = 0; i < n * d; i++)
        s->x[i] += y[i];
    free(mem);
}

static void
adapter(struct plain *s, const struct model_exit *e)
{
    size_t d = (size_t)s->m->config.d_model, n = (size_t)s->n;
    const float *bias = e->map_bias->data;
    double *mem = malloc(3 * n * d * sizeof(*mem));
    double *h = mem, *z = h + n * d, *y = z + n * d;

    if (!mem)
        return;
    rms(h, s->x, NULL, d, s->n, 1e-5);
    product(z, e->map, s->x, s->n);
    memset(y, 0, n * d * sizeof(*y));
    if (e->gate)
        gated(y, e->gate, e->up, e->down, h, s->n);
    for (size_t i = 0; i < n * d; i++)
        s->x[i] = z[i] + (double)bias[i % d] + y[i];
    free(mem);
}

double *
plain_forward(const struct model *m, const int32_t *tokens, int n, int layers, int exit)
{
    size_t d = (size_t)m->config.d_model, n_vocab = (size_t)m->config.n_vocab;
    size_t bytes = quant_row_bytes(m->token_embd->type, d);
    struct plain s = { m, n, malloc((size_t)n * d * sizeof(double)) };
    double *logits = malloc((size_t)n * n_vocab * sizeof(*logits));
    float *row = malloc(d * sizeof(*row));
    const struct gguf_tensor *norm = m->output_norm, *output = m->output;

    if (!s.x || !logits || !row) {
        free(s.x);
        free(logits);
        free(row);
        return NULL;
    }
    for (int i = 0; i < n; i++) {
        quant_dequantise_row(
            m->token_embd->type,
            (const char *)m->token_embd->data + (size_t)tokens[i] * bytes, row, d);
        for (size_t j = 0; j < d; j++)
            s.x[(size_t)i * d + j] = (double)row[j];
    }
    for (int l = 0; l < layers; l++)
        block(&s, l);
    if (exit >= 0 && m->exits[exit].kind == MODEL_EXIT_MLP)
        adapter(&s, &m->exits[exit]);
    if (exit >= 0 && m->exits[exit].kind == MODEL_EXIT_OWN) {
        norm = m->exits[exit].norm;
        output = m->exits[exit].output;
    }
    rms(s.x, s.x, norm, d, n, (double)m->config.norm_eps);
    product(logits, output, s.x, n);
    free(s.x);
    free(row);
    return logits;
}
