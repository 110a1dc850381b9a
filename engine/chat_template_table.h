/* SPDX-License-Identifier: Apache-2.0
 * chat_template_table.h - what a row of the table of chat templates says.
 *
 * Included by engine/chat_template*.c alone. Thread: constant data.
 */
#ifndef CE_ENGINE_CHAT_TEMPLATE_TABLE_H
#define CE_ENGINE_CHAT_TEMPLATE_TABLE_H

#include <stdbool.h>

#define TEMPLATE_MAX_MARKS 4

/* Around a message of that role. NULL: nothing. */
struct role_marks {
    const char *before, *after;
};

/* Where a system message goes: a turn of its own, or into a user's (between
 * user.before and what the user says; then users and assistants take turns). */
enum system_place { SYSTEM_OWN, SYSTEM_FIRST_USER, SYSTEM_LAST_USER };

struct chat_template {
    const char *name;
    const char *marks[TEMPLATE_MAX_MARKS]; /* all occur in the file's Jinja text */
    const char *lacks[TEMPLATE_MAX_MARKS]; /* none does */
    const char *bos;                       /* what the text begins with */
    struct role_marks system, user, assistant;
    enum system_place system_goes;
    const char *default_system; /* stands in for a system message; NULL: none does */
    const char *open_answer;
    bool trims;         /* white space around what users (and systems of their own) say */
    bool trims_answers; /* the same of assistants */
    bool drops_thoughts; /* answers lose what they hold up to </think> ... */
    bool drops_lines;    /* ... and line breaks behind it */
};

/* In order of trial, the more particular ones first; ends with a NULL name. */
extern const struct chat_template chat_template_table[];

#endif
