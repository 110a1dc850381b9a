/* SPDX-License-Identifier: Apache-2.0
 * test_reply.c - text that is never taken back: characters cut by tokens, stop
 * strings over several tokens, what is reported when.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "agent/reply.h"

static const char *const pieces[] = { "ab",       "c", "STO", "P",    "x", "\xe2",
                                      "\x82\xac", "",  "<",   "<end", ">", "\xff" };

static const char *
piece(const void *ctx, int32_t id, size_t *len)
{
    (void)ctx;
    *len = strlen(pieces[id]);
    return pieces[id];
}

static bool
ends(const void *ctx, int32_t id)
{
    (void)ctx;
    return id == 7;
}

static char seen[256]; /* "id:text|id:text|" */

static void
on_token(void *ctx, const struct reply_token *t)
{
    (void)ctx;
    size_t n = strlen(seen);
    snprintf(seen + n, sizeof(seen) - n, "%d:%.*s|", (int)t->id, (int)t->text_len,
             t->text);
}

/* Feed ids until a stop; returns the last result of reply_add. */
static int
run(const char *const *stops, int n_stops, const int *ids, int n, const char *expect,
    const char *text)
{
    static const struct reply_vocab vocab = { piece, ends, NULL };
    struct reply *r;
    int rc = 0;
    size_t len;

    seen[0] = '\0';
    assert_int_equal(reply_new(&r, &vocab, stops, n_stops, on_token, NULL, NULL), 0);
    for (int i = 0; i < n && rc == 0; i++) {
        struct reply_token t = { .id = ids[i] };
        rc = reply_add(r, &t, NULL);
    }
    assert_int_equal(reply_finish(r, NULL), 0);
    assert_string_equal(seen, expect);
    const char *all = reply_text(r, &len);
    assert_int_equal(len, strlen(text));
    assert_memory_equal(all, text, len);
    reply_free(r);
    return rc;
}

static void
plain(void **state)
{
    (void)state;
    assert_int_equal(run(NULL, 0, (int[]){ 0, 1, 7 }, 3, "0:ab|1:c|7:|", "abc"), 0);
    assert_int_equal(run(NULL, 0, NULL, 0, "", ""), 0);
}

static void
characters(void **state)
{
    (void)state;
    run(NULL, 0, (int[]){ 5, 6, 4 }, 3, "5:|6:\xe2\x82\xac|4:x|", "\xe2\x82\xacx");
    /* never completed: U+FFFD, with the token that began it */
    run(NULL, 0, (int[]){ 4, 5 }, 2, "4:x|5:\xef\xbf\xbd|", "x\xef\xbf\xbd");
    run(NULL, 0, (int[]){ 11, 4 }, 2, "11:\xef\xbf\xbd|4:x|", "\xef\xbf\xbdx");
}

static void
stops(void **state)
{
    static const char *const stop[] = { "STOP", "<<end>" };

    (void)state;
    assert_int_equal(run(stop, 2, (int[]){ 0, 2, 3, 4 }, 4, "0:ab|2:|3:|", "ab"), 1);
    /* half of it, then not */
    assert_int_equal(run(stop, 2, (int[]){ 2, 4, 0 }, 3, "2:STO|4:x|0:ab|", "STOxab"), 0);
    /* half of it at the end is text after all */
    assert_int_equal(run(stop, 2, (int[]){ 0, 2 }, 2, "0:ab|2:STO|", "abSTO"), 0);
    /* a beginning inside a beginning */
    assert_int_equal(run(stop, 2, (int[]){ 8, 8, 9, 10 }, 4, "8:<|8:|9:|10:|", "<"), 1);
    /* "<<" held, then "<end" shows that only the first was text */
    assert_int_equal(run(stop, 2, (int[]){ 8, 9, 4 }, 3, "8:<|9:<end|4:x|", "<<endx"), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain),
        cmocka_unit_test(characters),
        cmocka_unit_test(stops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
