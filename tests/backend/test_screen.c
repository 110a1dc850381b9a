/* SPDX-License-Identifier: Apache-2.0
 * test_screen.c - screens of exits: what they turn away is below the threshold, what
 * they let pass comes out as if there were none, and neither depends on the company, the
 * threads, the instruction set or the packing.
 */
#include "engine/backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/sha256.h"
#include "engine/gguf.h"
#include "engine/kernels.h"
#include "engine/model.h"
#include "engine/synth.h"

#define MODEL  "test_screen.gguf"
#define EXITS  "test_screen.exits.gguf"
#define LAYER  2
#define N_ROWS 70 /* more than heads take at once */

static const struct shape {
    const char *what;
    struct synth_params p;
    enum synth_exit_kind kind;
} shapes[] = {
    { "F32, all are candidates",
      { 3, 96, 6, 2, 16, 160, 400, 320, true, GGUF_F32, 5, 320, { 0 } },
      SYNTH_EXIT_MLP },
    { "F16, odd sizes, all",
      { 3, 72, 3, 3, 16, 100, 400, 333, false, GGUF_F16, 5, 333, { 0 } },
      SYNTH_EXIT_MLP },
    { "Q8_0, all",
      { 3, 64, 4, 4, 16, 96, 400, 320, true, GGUF_Q8_0, 5, 320, { 0 } },
      SYNTH_EXIT_MLP },
    { "Q8_0, a few",
      { 3, 64, 4, 4, 16, 96, 400, 320, true, GGUF_Q8_0, 5, 23, { 0 } },
      SYNTH_EXIT_MLP },
    { "Q4_1, several chunks",
      { 3, 192, 3, 1, 64, 288, 400, 2100, true, GGUF_Q4_1, 5, 256, { 0 } },
      SYNTH_EXIT_MLP },
    { "F32, all, with a trust",
      { 3, 96, 6, 2, 16, 160, 400, 320, true, GGUF_F32, 5, 320, { 0 } },
      SYNTH_EXIT_TRUST },
    { "Q4_1, all, with a trust",
      { 3, 192, 3, 1, 64, 288, 400, 900, true, GGUF_Q4_1, 5, 900, { 0 } },
      SYNTH_EXIT_TRUST },
    { "Q4_0, the most",
      { 3, 128, 4, 2, 32, 224, 400, 1500, false, GGUF_Q4_0, 5, 1024, { 0 } },
      SYNTH_EXIT_MLP },
};
#define N_SHAPES (sizeof(shapes) / sizeof(shapes[0]))

struct rows {
    struct head_result r[N_ROWS];
    float *logits;  /* [N_ROWS, n_vocab], or NULL */
    float *head_in; /* [N_ROWS, d_model], or NULL */
};

static struct model *
make_model(const struct shape *s)
{
    int layer = LAYER;
    struct model *m = NULL;
    struct err err;

    if (synth_model(&s->p, MODEL, &err) != 0 ||
        synth_exits_of(&s->p, s->kind, MODEL, &layer, 1, 64, EXITS, &err) != 0 ||
        model_open(&m, MODEL, EXITS, &err) != 0)
        fail_msg("%s: %s", s->what, err.text);
    return m;
}

static void
drop_model(struct model *m)
{
    model_close(m);
    unlink(MODEL);
    unlink(EXITS);
}

/* N_ROWS positions through the exit, `step` at a time. */
static void
run(const struct model *m, struct backend_options *opt, int step, float theta,
    struct rows *out)
{
    struct backend *b = NULL;
    struct err err;
    int seq;

    opt->exit_heads = true;
    if (backend_cpu_open(&b, m, opt, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(b->info.n_exits, 1);
    assert_true(b->info.exit_screens[0]);
    assert_int_equal(backend_seq_open(b, &seq, &err), 0);
    for (int at = 0; at < N_ROWS; at += step) {
        int n = N_ROWS - at < step ? N_ROWS - at : step;
        int32_t tokens[N_ROWS];
        struct batch_item item = {
            .seq = seq,
            .pos = at,
            .n_rows = n,
            .tokens = tokens,
            .head_rows = n,
            .results = out->r + at,
            .logits =
                out->logits ? out->logits + (size_t)at * (size_t)b->info.n_vocab : NULL,
            .head_in =
                out->head_in ? out->head_in + (size_t)at * (size_t)b->info.d_model : NULL,
        };
        struct batch batch = { .layer_to = LAYER,
                               .head = HEAD_EXIT(0),
                               .n_top = 5,
                               .want_hash = true,
                               .screen_theta = theta,
                               .n_items = 1,
                               .items = &item };

        for (int i = 0; i < n; i++)
            tokens[i] = (at + i) * 37 % 320;
        if (backend_run(b, &batch, &err) != 0)
            fail_msg("%s", err.text);
    }
    backend_close(b);
}

static int
by_size(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return x < y ? -1 : x > y;
}

/* A threshold that about half of the rows are below. */
static float
median_confidence(const struct rows *rows)
{
    float c[N_ROWS];

    for (int i = 0; i < N_ROWS; i++)
        c[i] = rows->r[i].confidence;
    qsort(c, N_ROWS, sizeof(c[0]), by_size);
    return c[N_ROWS / 2];
}

static void
test_verdicts(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++) {
        struct model *m = make_model(&shapes[i]);
        size_t n_vocab = (size_t)m->config.n_vocab, d = (size_t)m->config.d_model;
        bool all = (size_t)shapes[i].p.n_candidates == n_vocab;
        struct backend_options opt = { .n_threads = 2 };
        struct rows whole = { .logits = calloc(N_ROWS * n_vocab, sizeof(float)),
                              .head_in = calloc(N_ROWS * d, sizeof(float)) };
        struct rows screened = { 0 };
        int n_below = 0;
        float theta;

        print_message("%s\n", shapes[i].what);
        run(m, &opt, N_ROWS, 0, &whole);
        theta = median_confidence(&whole);
        run(m, &opt, N_ROWS, theta, &screened);
        for (int r = 0; r < N_ROWS; r++) {
            const struct head_result *w = &whole.r[r], *s = &screened.r[r];

            assert_false(w->below);
            if (all)
                assert_int_equal(s->below, w->confidence < theta);
            if (!s->below) {
                assert_memory_equal(s, w, sizeof(*s));
                continue;
            }
            n_below++;
            assert_true(s->confidence < theta);
            assert_int_equal(s->n_top, 0);
            assert_int_equal(s->hash, 0);
            assert_in_range(s->argmax, 0, n_vocab - 1);
            assert_memory_equal(&s->max_logit,
                                &whole.logits[(size_t)r * n_vocab + (size_t)s->argmax],
                                sizeof(float));
            if (s->argmax == w->argmax)
                assert_true(s->confidence >= w->confidence);
            if (all)
                assert_memory_equal(&s->confidence, &w->confidence, sizeof(float));
        }
        assert_true(n_below > 0);
        if (all)
            assert_true(n_below < N_ROWS);
        free(whole.logits);
        free(whole.head_in);
        drop_model(m);
    }
}

/* What head_in gives is what the output matrix reads, and whole rows are not screened. */
static void
test_rows_given(void **state)
{
    struct model *m = make_model(&shapes[0]);
    size_t n_vocab = (size_t)m->config.n_vocab, d = (size_t)m->config.d_model;
    struct backend_options opt = { .n_threads = 1 };
    struct rows rows = { .logits = calloc(N_ROWS * n_vocab, sizeof(float)),
                         .head_in = calloc(N_ROWS * d, sizeof(float)) };
    const float *w = m->output->data;

    (void)state;
    run(m, &opt, N_ROWS, 2.0f, &rows);
    for (size_t r = 0; r < N_ROWS; r++) {
        size_t id = (size_t)rows.r[r].argmax;
        double y = 0;

        assert_false(rows.r[r].below);
        for (size_t k = 0; k < d; k++)
            y += (double)w[id * d + k] * (double)rows.head_in[r * d + k];
        assert_float_equal(y, rows.logits[r * n_vocab + id], 1e-3);
    }
    free(rows.logits);
    free(rows.head_in);
    drop_model(m);
}

static void
test_same_bits(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SHAPES; i++) {
        struct model *m = make_model(&shapes[i]);
        struct backend_options opt = { .n_threads = 1, .cpu = "scalar" };
        struct rows first = { 0 }, other = { 0 };
        const struct kernels *k;
        float theta;

        run(m, &opt, N_ROWS, 0, &first);
        theta = median_confidence(&first);
        run(m, &opt, N_ROWS, theta, &first);
        for (int t = 0; (k = kernels_at(t)) != NULL; t++) {
            opt = (struct backend_options){ .n_threads = 1 + t % 3, .cpu = k->name };
            run(m, &opt, 1 + 8 * (t % 3), theta, &other);
            assert_memory_equal(&first.r, &other.r, sizeof(first.r));
        }
        opt = (struct backend_options){ .n_threads = 3, .packing_off = true };
        run(m, &opt, N_ROWS, theta, &other);
        assert_memory_equal(&first.r, &other.r, sizeof(first.r));
        drop_model(m);
    }
}

/* A file whose screen is wrong is refused, with what is wrong. */
static void
test_refused(void **state)
{
    struct shape s = shapes[2];
    int layer = LAYER;
    struct err err;

    (void)state;
    assert_int_equal(synth_model(&s.p, MODEL, &err), 0);
    s.p.n_candidates = s.p.n_vocab + 1;
    assert_int_equal(synth_exits(&s.p, MODEL, &layer, 1, 64, EXITS, &err), CE_EINVAL);
    assert_non_null(strstr(err.text, "candidates"));
    unlink(MODEL);
    unlink(EXITS);
}

/* A shared exit with a screen of `rank` by `d` and `n_out` by 32 floats. */
static void
write_screen(int32_t n_candidates, size_t rank, size_t d, size_t n_out)
{
    struct gguf_writer *w;
    struct gguf_str kind = { "shared", 6 };
    int32_t layer = LAYER;
    uint8_t digest[SHA256_BYTES];
    char text[SHA256_TEXT];
    float *zeros = calloc(n_out * 64, sizeof(*zeros));
    struct err err;

    assert_int_equal(sha256_file(MODEL, digest, &err), 0);
    sha256_text(digest, text);
    assert_int_equal(gguf_writer_new(&w, &err), 0);
    gguf_writer_str(w, "general.architecture", "cecollm-exits", 13);
    gguf_writer_str(w, "cecollm.exit.model_file_sha256", text, strlen(text));
    gguf_writer_u32(w, "cecollm.exit.version", 1);
    gguf_writer_i32_array(w, "cecollm.exit.layers", &layer, 1);
    gguf_writer_str_array(w, "cecollm.exit.kinds", &kind, 1);
    gguf_writer_i32_array(w, "cecollm.exit.candidates", &n_candidates, 1);
    if (rank > 0)
        gguf_writer_tensor(w, "exit.2.screen.down.weight", GGUF_F32, 2,
                           (size_t[]){ d, rank }, zeros);
    gguf_writer_tensor(w, "exit.2.screen.up.weight", GGUF_F32, 2, (size_t[]){ 32, n_out },
                       zeros);
    assert_int_equal(gguf_writer_finish(w, EXITS, &err), 0);
    gguf_writer_free(w);
    free(zeros);
}

static void
test_files_refused(void **state)
{
    static const struct {
        int32_t n_candidates;
        size_t rank, d, n_out;
        const char *names; /* what the error must name; NULL: the file is right */
    } files[] = {
        { 40, 32, 64, 320, NULL },
        { 0, 0, 0, 320, NULL }, /* none asked for: nothing is looked at */
        { -1, 32, 64, 320, "cecollm.exit.candidates" },
        { 321, 32, 64, 320, "cecollm.exit.candidates" },
        { 2000, 32, 64, 320, "cecollm.exit.candidates" },
        { 40, 0, 0, 320, "exit.2.screen.down.weight" },
        { 40, 33, 64, 320, "exit.2.screen.down.weight" },
        { 40, 96, 64, 320, "exit.2.screen.down.weight" },
        { 40, 32, 63, 320, "exit.2.screen.down.weight" },
        { 40, 64, 64, 320, "exit.2.screen.up.weight" },
        { 40, 32, 64, 319, "exit.2.screen.up.weight" },
    };
    struct err err;

    (void)state;
    assert_int_equal(synth_model(&shapes[2].p, MODEL, &err), 0);
    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        struct model *m = NULL;
        int rc;

        write_screen(files[i].n_candidates, files[i].rank, files[i].d, files[i].n_out);
        rc = model_open(&m, MODEL, EXITS, &err);
        if (files[i].names) {
            assert_int_equal(rc, CE_EFORMAT);
            assert_non_null(strstr(err.text, files[i].names));
        } else {
            assert_int_equal(rc, 0);
            assert_int_equal(m->exits[0].n_candidates, files[i].n_candidates);
        }
        model_close(m);
    }
    unlink(MODEL);
    unlink(EXITS);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verdicts),      cmocka_unit_test(test_rows_given),
        cmocka_unit_test(test_same_bits),     cmocka_unit_test(test_refused),
        cmocka_unit_test(test_files_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
