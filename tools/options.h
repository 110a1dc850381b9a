/* SPDX-License-Identifier: Apache-2.0
 * options.h - command lines by table: parsing, range checks, and the help page.
 *
 * A command lists its options once; parsing and `--help` both read that list, so
 * they cannot disagree. Options and operands may be mixed; `--` ends the options;
 * values come as `--name value`, `--name=value` or `-n value`.
 *
 * Thread: any; no state.
 */
#ifndef CE_TOOLS_OPTIONS_H
#define CE_TOOLS_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

#define OPTIONS_MAX_LIST  16
#define OPTIONS_MAX_TEXTS 64

enum options_kind {
    OPTIONS_FLAG, /* bool */
    OPTIONS_INT,  /* int, within min .. max */
    OPTIONS_U64,  /* uint64_t */
    OPTIONS_TEXT, /* const char *, into argv */
    OPTIONS_REAL, /* double, finite, above 0 */
    OPTIONS_LIST, /* struct options_list: numbers within min .. max, "2,3" */
    /* struct options_texts: the words up to the next option; more when given again */
    OPTIONS_TEXTS,
};

struct options_list {
    int n;
    int v[OPTIONS_MAX_LIST];
};

struct options_texts {
    int n;
    const char *v[OPTIONS_MAX_TEXTS]; /* into argv */
};

struct option_spec {
    const char *name; /* long name without dashes; NULL ends the table */
    char letter;      /* short name, or 0 */
    enum options_kind kind;
    void *value; /* where it goes; what is there before is the default */
    const char *metavar;
    const char *help; /* one line */
    int min, max;     /* OPTIONS_INT and OPTIONS_LIST */
};

struct options_page {
    const char *usage;       /* after the program's name: "info FILE [--json]" */
    const char *description; /* what it does; may have several lines */
    const struct option_spec *specs;
    int min_operands, max_operands;
};

/* Parse argv[1..argc-1]. Operands are moved to the front: argv[1..*n_operands].
 * *help is set when --help or -h was seen; then nothing else was checked.
 * CE_EINVAL with a text that names the option. */
int options_parse(const struct options_page *page, int argc, char **argv, int *n_operands,
                  bool *help, struct err *err) CE_MUSTCHECK;

/* The help page, on stdout. */
void options_help(const struct options_page *page, const char *program);

#endif
