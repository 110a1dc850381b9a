/* SPDX-License-Identifier: Apache-2.0
 * test_split.c - parts of a model compute the bits of the whole.
 *
 * An edge part runs the first blocks and its exits, a cloud part the rest from the
 * edge's hidden states; exits and logits must equal, bit for bit, what the whole
 * file gives in one pass. Tied and untied, quantised and not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/backend.h"
#include "engine/model.h"
#include "engine/synth.h"
#include "tools/partition.h"

#define WHOLE "test_split.gguf"
#define EXITS "test_split.exits.gguf"
#define EDGE  "test_split.edge.gguf"
#define CLOUD "test_split.cloud.gguf"

#define N_ROWS 37
#define D      64
#define EXIT_1 2
#define EXIT_2 4

struct side {
    struct model *model;
    struct backend *backend;
    int seq;
};

static void
open_side(struct side *s, const char *path, const char *exits, bool final_head)
{
    struct backend_options opt = { .n_threads = 1,
                                   .final_head = final_head,
                                   .exit_heads = true };
    struct err err = { 0 };

    if (model_open(&s->model, path, exits, &err) != 0)
        fail_msg("%s", err.text);
    opt.layer_from = s->model->layer_from;
    opt.layer_to = s->model->layer_to;
    if (backend_cpu_open(&s->backend, s->model, &opt, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(backend_seq_open(s->backend, &s->seq, &err), 0);
}

static void
close_side(struct side *s)
{
    backend_seq_close(s->backend, s->seq);
    backend_close(s->backend);
    model_close(s->model);
}

/* N_ROWS positions from 0 through blocks [from, to); hashes of every row's logits. */
static void
run(struct side *s, int from, int to, int head, const float *in, float *out,
    uint64_t *hashes)
{
    static struct head_result results[N_ROWS];
    int32_t tokens[N_ROWS];
    struct batch_item item = { .seq = s->seq,
                               .n_rows = N_ROWS,
                               .tokens = in ? NULL : tokens,
                               .hidden = in,
                               .hidden_out = out,
                               .head_rows = N_ROWS,
                               .results = results };
    struct batch batch = { .layer_from = from,
                           .layer_to = to,
                           .head = head,
                           .want_hash = true,
                           .n_items = 1,
                           .items = &item };
    struct err err = { 0 };

    for (int i = 0; i < N_ROWS; i++)
        tokens[i] = (i * 53 + 11) % 320;
    if (backend_run(s->backend, &batch, &err) != 0)
        fail_msg("%s", err.text);
    for (int i = 0; i < N_ROWS; i++)
        hashes[i] = results[i].hash;
}

static void
write_parts(void)
{
    struct model *m;
    struct err err = { 0 };
    struct partition edge = { NULL, 0, EXIT_2, true };
    struct partition cloud = { NULL, EXIT_1, 6, false };

    if (model_open(&m, WHOLE, EXITS, &err) != 0)
        fail_msg("%s", err.text);
    edge.model = m;
    cloud.model = m;
    if (partition_write(&edge, EDGE, &err) != 0 ||
        partition_write(&cloud, CLOUD, &err) != 0)
        fail_msg("%s", err.text);
    assert_true(partition_weight_bytes(&cloud) < gguf_size_bytes(m->file));
    assert_int_equal(partition_kv_bytes(&edge, 10), 10 * EXIT_2 * 2 * 16 * 2 * 2);
    model_close(m);
}

static void
check_parts(uint32_t type, bool tied, enum synth_exit_kind kind)
{
    static float state[3][N_ROWS * D];
    uint64_t want[3][N_ROWS], got[3][N_ROWS];
    static const int layers[] = { EXIT_1, EXIT_2 };
    struct side whole = { 0 }, edge = { 0 }, cloud = { 0 };
    struct synth_params p;
    struct err err = { 0 };

    synth_params_init(&p);
    p.n_layers = 6;
    p.type = type;
    p.tied = tied;
    if (kind != SYNTH_EXIT_OWN)
        p.n_candidates = 40; /* screens go with their exits */
    assert_int_equal(synth_model(&p, WHOLE, &err), 0);
    assert_int_equal(synth_exits_of(&p, kind, WHOLE, layers, 2, 64, EXITS, &err), 0);
    write_parts();

    open_side(&whole, WHOLE, EXITS, true);
    run(&whole, 0, EXIT_1, HEAD_EXIT(0), NULL, state[0], want[0]);
    run(&whole, EXIT_1, EXIT_2, HEAD_EXIT(1), state[0], state[1], want[1]);
    run(&whole, EXIT_2, 6, HEAD_FINAL, state[1], NULL, want[2]);

    open_side(&edge, EDGE, "none", false);
    open_side(&cloud, CLOUD, "none", true);
    assert_memory_equal(edge.model->fingerprint, whole.model->fingerprint, 32);
    assert_memory_equal(cloud.model->fingerprint, whole.model->fingerprint, 32);
    assert_int_equal(edge.model->n_exits, 2);
    assert_int_equal(edge.model->exits[1].n_candidates, p.n_candidates);
    /* Only an exit without its own matrix needs the model's. */
    assert_int_equal(edge.model->output != NULL, kind != SYNTH_EXIT_OWN);
    assert_int_equal(cloud.model->n_exits, 0);
    memset(state, 0, sizeof(state));
    run(&edge, 0, EXIT_1, HEAD_EXIT(0), NULL, state[0], got[0]);
    run(&edge, EXIT_1, EXIT_2, HEAD_EXIT(1), state[0], state[1], got[1]);
    run(&cloud, EXIT_1, 6, HEAD_FINAL, state[0], NULL, got[2]);
    assert_memory_equal(got, want, sizeof(want));
    close_side(&edge);
    close_side(&cloud);
    close_side(&whole);
}

static void
test_same_bits(void **state)
{
    static const uint32_t types[] = { GGUF_F32, GGUF_F16, GGUF_Q8_0, GGUF_Q4_0,
                                      GGUF_Q4_1 };

    (void)state;
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        check_parts(types[i], i % 2 == 0, SYNTH_EXIT_MLP);
    check_parts(GGUF_Q8_0, false, SYNTH_EXIT_OWN);
    check_parts(GGUF_F16, true, SYNTH_EXIT_OWN);
    check_parts(GGUF_Q4_0, true, SYNTH_EXIT_SHARED);
}

static void
test_parts_are_not_split_again(void **state)
{
    struct partition p = { NULL, 0, 1, true };
    struct model *m;
    struct err err = { 0 };

    (void)state;
    assert_int_equal(model_open(&m, EDGE, "none", &err), 0);
    p.model = m;
    assert_int_equal(partition_write(&p, "test_split.never.gguf", &err), CE_EINVAL);
    assert_non_null(strstr(err.text, "already a part"));
    assert_int_not_equal(access("test_split.never.gguf", F_OK), 0);
    model_close(m);
}

static int
remove_files(void **state)
{
    (void)state;
    unlink(WHOLE);
    unlink(EXITS);
    unlink(EDGE);
    unlink(CLOUD);
    return 0;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_parts_are_not_split_again),
    };

    return cmocka_run_group_tests(tests, NULL, remove_files);
}
