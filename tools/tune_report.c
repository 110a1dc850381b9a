/* SPDX-License-Identifier: Apache-2.0
 * tune_report.c - see tune_report.h.
 */
#include "tools/tune_report.h"

#include <stdbool.h>
#include <stdio.h>

#include "tools/units.h"

static json_t *
exit_json(const struct tune_report *r, int i)
{
    const struct exit_judgement *j = &r->judged[i];
    json_t *screens = json_array();

    for (int k = 0; r->checks && k < SCREEN_CHECK_THETAS; k++) {
        const struct screen_check *c = &r->checks[i * SCREEN_CHECK_THETAS + k];

        json_array_append_new(
            screens, json_pack("{s:f, s:I, s:I, s:I, s:I}", "theta", (double)c->theta,
                               "above", (json_int_t)c->n_above, "above_kept",
                               (json_int_t)c->n_kept, "below", (json_int_t)c->n_below,
                               "below_turned_away", (json_int_t)c->n_turned));
    }
    return json_pack("{s:i, s:I, s:f, s:f, s:f, s:f, s:f, s:o}", "layer", r->layers[i],
                     "width", (json_int_t)r->adapters[i].w, "loss", r->adapters[i].loss,
                     "agreement", j->agreement, "theta", (double)j->theta, "exit_rate",
                     j->exit_rate, "precision", j->precision, "screen", screens);
}

json_t *
tune_report_json(const struct tune_report *r)
{
    json_t *list = json_array();

    for (int i = 0; i < r->n_exits; i++)
        json_array_append_new(list, exit_json(r, i));
    return json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:f, s:f, s:o}", "file", r->file, "file_bytes",
        (json_int_t)r->file_bytes, "rows_trained", (json_int_t)r->n_rows, "rows_held_out",
        (json_int_t)r->n_held, "steps", (json_int_t)r->n_steps, "collect_seconds",
        r->collect_seconds, "train_seconds", r->train_seconds, "exits", list);
}

/* Of all the screen's checks the one at the threshold suggested. */
static const struct screen_check *
screen_at(const struct tune_report *r, int i)
{
    const struct screen_check *c = &r->checks[i * SCREEN_CHECK_THETAS];
    int k = 0;

    while (k < SCREEN_CHECK_THETAS - 1 && c[k].theta < r->judged[i].theta)
        k++;
    return &c[k];
}

void
tune_report_print(const struct tune_report *r)
{
    char a[UNITS_TEXT], b[UNITS_TEXT];

    if (r->n_exits == 0) {
        printf("%s: %s rows to train on, %s held out, in %.0f s\n", r->file,
               units_count(a, r->n_rows), units_count(b, r->n_held), r->collect_seconds);
        return;
    }
    printf("%s: %s; ", r->file, units_bytes(a, (double)r->file_bytes));
    printf("%s rows, %s held out; %zu steps; %.0f s and %.0f s\n\n",
           units_count(a, r->n_rows), units_count(b, r->n_held), r->n_steps,
           r->collect_seconds, r->train_seconds);
    printf(
        "after block  width   loss  agrees  theta   exits  right  screen: turned away, "
        "kept\n");
    for (int i = 0; i < r->n_exits; i++) {
        const struct exit_judgement *j = &r->judged[i];
        const struct screen_check *c = r->checks ? screen_at(r, i) : NULL;

        printf("%11d  %5zu  %5.3f  %5.1f%%   %.2f  %5.1f%%  %4.1f%%", r->layers[i],
               r->adapters[i].w, r->adapters[i].loss, 100 * j->agreement,
               (double)j->theta, 100 * j->exit_rate, 100 * j->precision);
        if (c && c->n_below > 0 && c->n_above > 0)
            printf("  %18.1f%%  %4.1f%%", 100 * (double)c->n_turned / (double)c->n_below,
                   100 * (double)c->n_kept / (double)c->n_above);
        putchar('\n');
    }
}
