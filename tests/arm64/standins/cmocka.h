/* SPDX-License-Identifier: Apache-2.0
 * cmocka.h - stands in for the library where a test is cross-compiled: the assertions
 * that our kernel and backend tests use, and a runner (standins.c). An assertion that
 * fails ends the program.
 */
#ifndef CE_TESTS_ARM64_CMOCKA_H
#define CE_TESTS_ARM64_CMOCKA_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
};

#define cmocka_unit_test(f)                                                              \
    {                                                                                    \
#f, f                                                                            \
    }
#define cmocka_run_group_tests(tests, setup, teardown)                                   \
    standins_run(tests, sizeof(tests) / sizeof((tests)[0]))

int standins_run(const struct CMUnitTest *tests, size_t n);
_Noreturn void standins_skip(void);
_Noreturn void standins_fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define print_message                    printf
#define skip()                           standins_skip()
#define fail_msg(...)                    standins_fail(__FILE__, __LINE__, __VA_ARGS__)
#define STANDINS_CHECK(x)                ((x) ? (void)0 : standins_fail(__FILE__, __LINE__, "%s", #x))
#define assert_true(x)                   STANDINS_CHECK(x)
#define assert_false(x)                  STANDINS_CHECK(!(x))
#define assert_null(p)                   STANDINS_CHECK((p) == NULL)
#define assert_non_null(p)               STANDINS_CHECK((p) != NULL)
#define assert_int_equal(a, b)           STANDINS_CHECK((intmax_t)(a) == (intmax_t)(b))
#define assert_int_not_equal(a, b)       STANDINS_CHECK((intmax_t)(a) != (intmax_t)(b))
#define assert_ptr_equal(a, b)           STANDINS_CHECK((a) == (b))
#define assert_ptr_not_equal(a, b)       STANDINS_CHECK((a) != (b))
#define assert_string_equal(a, b)        STANDINS_CHECK(strcmp((a), (b)) == 0)
#define assert_memory_equal(a, b, n)     STANDINS_CHECK(memcmp((a), (b), (n)) == 0)
#define assert_memory_not_equal(a, b, n) STANDINS_CHECK(memcmp((a), (b), (n)) != 0)
#define assert_in_range(x, from, to)                                                     \
    STANDINS_CHECK((uintmax_t)(x) >= (uintmax_t)(from) &&                                \
                   (uintmax_t)(x) <= (uintmax_t)(to))

#endif
