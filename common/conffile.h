/* SPDX-License-Identifier: Apache-2.0
 * conffile.h - settings from one table: file, command line, documentation.
 *
 * A program lists its keys once: name, type, where the value goes, default,
 * bounds, help. The table feeds the parser, the printed full settings file (etc/
 * holds exactly what conffile_print prints) and the test that the manual page
 * names every key.
 *
 *     struct settings { int64_t threads; int64_t timeout_us; char *ca; };
 *     static const struct conffile_key keys[] = {
 *         { "threads", CONFFILE_INT, offsetof(struct settings, threads), "2",
 *           .min = 1, .max = 64, .help = "Threads that compute." },
 *         ...
 *     };
 *
 * A file has `key = value` lines, [sections], and comments from # or ; at the
 * start of a line (or ; after a space). Unknown keys, bad values and keys given
 * twice (but for those of `many`) are errors that say "FILE:LINE: key: what is wrong".
 * Settings given on the command line come afterwards and override.
 *
 * On error the settings are half changed: load into a fresh struct and swap it
 * in when all went well (that is also how a reload works).
 *
 * Thread: any; a settings struct has one owner.
 */
#ifndef CE_COMMON_CONFFILE_H
#define CE_COMMON_CONFFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/error.h"

enum conffile_type {                /* type of the field; how it is written */
                     CONFFILE_INT,  /* int64_t; decimal */
                     CONFFILE_SIZE, /* int64_t bytes; decimal with K, M, G or T (of 1024)
                                     */
                     CONFFILE_DURATION, /* int64_t microseconds; 0, or decimal with us,
                                           ms, s, min, h */
                     CONFFILE_BOOL,     /* bool; yes, no, true, false, on, off */
                     CONFFILE_STRING,   /* char *; anything, may be empty */
                     CONFFILE_PATH,     /* char *; not empty */
                     CONFFILE_DOUBLE,   /* double; decimal */
                     CONFFILE_ENUM,     /* int, an index of `choices` */
                     CONFFILE_OTHER,    /* what the key's own `take` makes of the text */
};

struct conffile_key {
    const char *name;
    enum conffile_type type;
    size_t offset;   /* of the field in the section's struct */
    const char *def; /* default as one writes it; NULL: a string stays NULL */
    /* Bounds, inclusive, in the field's unit; both 0: none (but SIZE and
     * DURATION are never negative). */
    double min, max;
    const char *const *choices; /* ENUM: ends with NULL */
    const char *help;           /* sentences for the settings file */
    /* OTHER: take the text into the section's struct, which owns what comes of it.
     * CE_EINVAL or CE_ENOMEM, and in `why` what is wrong, in one line. */
    int (*take)(void *base, const char *text, char *why, size_t why_size);
    bool many; /* may be given several times */
};

struct conffile_section {
    const char *name; /* "" for keys before any [section] */
    const struct conffile_key *keys;
    int n_keys;
    const char *help; /* or NULL */
    /* NULL: the fields are in the settings struct itself. Otherwise a family,
     * [name LABEL] any number of times: returns the zeroed struct for a new
     * label (owned by the settings; free its strings with
     * conffile_section_free), or NULL with *err set. Not called twice for one
     * label: that is an error by itself. */
    void *(*open)(void *settings, const char *label, struct err *err);
    /* A family's: the member is complete; anything but 0 refuses it, with `why` as a
     * key's. May be NULL. */
    int (*check)(void *base, char *why, size_t why_size);
};

struct conffile_schema {
    const struct conffile_section *sections;
    int n_sections;
};

/* Put every default of the plain sections into zeroed settings. A default that
 * does not parse is CE_EINTERNAL (the unit test of a table calls this). */
int conffile_defaults(const struct conffile_schema *schema, void *settings,
                      struct err *err) CE_MUSTCHECK;

/* Read a file over the settings. CE_EIO when it cannot be read, CE_EINVAL for
 * what is in it, CE_ENOMEM. */
int conffile_load(const struct conffile_schema *schema, void *settings, const char *path,
                  struct err *err) CE_MUSTCHECK;

/* For who wants to know more of a file than its first problem: to list all of them,
 * and to name the line where a value came from that turned out wrong later. */
struct conffile_watch {
    void *arg;
    /* What conffile_load would have put into *err; reading goes on behind it. */
    void (*problem)(void *arg, const char *text);
    /* A key of a plain section was set in this line of the file. */
    void (*set)(void *arg, const struct conffile_key *key, int line);
};

/* The same as conffile_load, with a watch. */
int conffile_load_watched(const struct conffile_schema *schema, void *settings,
                          const char *path, const struct conffile_watch *watch,
                          struct err *err) CE_MUSTCHECK;

/* One setting from the command line: "key=value" or "section.key=value". */
int conffile_set(const struct conffile_schema *schema, void *settings,
                 const char *assignment, struct err *err) CE_MUSTCHECK;

/* Write a settings file with every key, its help, and its default commented out. */
void conffile_print(const struct conffile_schema *schema, FILE *out);

/* Is this key's value the same in two settings? Strings that are NULL and "" are. */
int conffile_same(const struct conffile_key *key, const void *a, const void *b);

/* Exchange this key's values. */
void conffile_swap(const struct conffile_key *key, void *a, void *b);

/* Free and NULL the strings of all plain sections, or of one family member. */
void conffile_free(const struct conffile_schema *schema, void *settings);
void conffile_section_free(const struct conffile_section *section, void *base);

#endif
