/* SPDX-License-Identifier: Apache-2.0
 * exit_plots.c - pictures of a report of exits, drawn by gnuplot; see exit_report.h.
 *
 * A picture is one script with its data in it, written beside the SVG, run, and removed.
 */
#include "tools/exit_report.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/program.h"

#define MAX_PATH 1024

struct plots {
    const struct exit_report *r;
    const char *dir;
    char gnuplot[MAX_PATH];
};

/* gnuplot as the shell would find it. */
static int
find_gnuplot(struct plots *p, struct err *err)
{
    const char *path = getenv("PATH");

    for (const char *s = path ? path : ""; *s != '\0';) {
        int len = (int)strcspn(s, ":");
        int n = snprintf(p->gnuplot, sizeof(p->gnuplot), "%.*s/gnuplot", len, s);

        if (n > 0 && (size_t)n < sizeof(p->gnuplot) && program_exists(p->gnuplot))
            return 0;
        s += len + (s[len] == ':');
    }
    return err_set(err, CE_ENOTFOUND,
                   "--plots: gnuplot is not installed; on Debian: apt install "
                   "gnuplot-nox");
}

/* ---- data ---- */

static void
put_exits(FILE *f, const struct exit_report *r, const struct exit_set *set)
{
    for (int k = 0; k < r->n_exits; k++) {
        const struct exit_figures *g = &set->figures[k];

        fprintf(f, "$bins%d << EOD\n", k);
        for (int i = 0; i < EXIT_FIGURES_BINS; i++) {
            if (g->bins[i].n > 0)
                fprintf(f, "%.4f %.4f %.4f\n", g->bins[i].confidence, g->bins[i].mass,
                        g->bins[i].agreement);
        }
        fprintf(f, "EOD\n$rates%d << EOD\n", k);
        for (int t = 0; t < g->n_thetas; t++) {
            if (!isnan(g->at[t].precision))
                fprintf(f, "%.4f %.4f %g\n", g->at[t].exit_rate, g->at[t].precision,
                        g->at[t].theta);
        }
        fprintf(f, "EOD\n");
    }
}

static void
draw_exits(FILE *f, const struct exit_report *r, const struct exit_set *set)
{
    put_exits(f, r, set);
    fprintf(f,
            "set multiplot layout 1,2\nset key right bottom\n"
            "set title 'calibration: %s'\nset xlabel 'confidence'\n"
            "set ylabel 'share'\nset xrange [0:1]\nset yrange [0:1]\nplot x with "
            "lines dashtype 2 linecolor 'gray' title 'ideal'",
            set->name);
    for (int k = 0; k < r->n_exits; k++)
        fprintf(
            f,
            ", $bins%d using 1:2 with linespoints title 'exit %d: final probability', "
            "$bins%d using 1:3 with linespoints title 'exit %d: agreement'",
            k, r->layers[k], k, r->layers[k]);
    fprintf(f,
            "\nset key left bottom\nset title 'exits over theta: %s'\n"
            "set xlabel 'exit rate'\n"
            "set ylabel 'precision'\nset autoscale\nplot ",
            set->name);
    for (int k = 0; k < r->n_exits; k++)
        fprintf(f,
                "%s$rates%d using 1:2 with linespoints title 'exit %d', $rates%d using "
                "1:2:3 with labels offset 0,0.7 notitle",
                k > 0 ? ", " : "", k, r->layers[k], k);
    fprintf(f, "\nunset multiplot\n");
}

static bool
is_alone(const struct exit_report *r, const struct exit_point *p, int k)
{
    for (int i = 0; i < r->n_exits; i++) {
        if ((p->setting.theta[i] < 1) != (i == k))
            return false;
    }
    return true;
}

static int
by_requests(const void *a, const void *b)
{
    const struct exit_point *p = a, *q = b;

    return (p->request_rate > q->request_rate) - (p->request_rate < q->request_rate);
}

/* Points of the frontier from left to right. */
static void
put_best(FILE *f, const struct exit_frontier *frontier)
{
    struct exit_point *list = calloc((size_t)frontier->n, sizeof(*list));
    size_t n = 0;

    for (int i = 0; list && i < frontier->n; i++) {
        if (frontier->points[i].best)
            list[n++] = frontier->points[i];
    }
    if (list)
        qsort(list, n, sizeof(*list), by_requests);
    fprintf(f, "$best << EOD\n");
    for (size_t i = 0; i < n; i++)
        fprintf(f, "%.4f %.4f\n", list[i].request_rate, list[i].rouge_l);
    fprintf(f, "EOD\n");
    free(list);
}

static void
draw_frontier(FILE *f, const struct exit_report *r, const struct exit_set *set)
{
    const struct exit_frontier *frontier = &set->frontier;

    put_best(f, frontier);
    for (int k = 0; k < r->n_exits; k++) {
        fprintf(f, "$alone%d << EOD\n", k);
        for (int i = 0; i < frontier->n; i++) {
            const struct exit_point *p = &frontier->points[i];

            if (is_alone(r, p, k))
                fprintf(f, "%.4f %.4f %g\n", p->request_rate, p->rouge_l,
                        p->setting.theta[k]);
        }
        fprintf(f, "EOD\n");
    }
    fprintf(f, "$paper << EOD\n");
    for (int i = 0; i < EXIT_PAPER_POINTS; i++)
        fprintf(f, "%.4f %.4f %g\n", exit_paper[i].request_rate, exit_paper[i].rouge_l,
                exit_paper[i].theta);
    fprintf(f,
            "EOD\nset key right bottom\nset title 'answers with exits: %s, %d prompts'\n"
            "set xlabel 'tokens asked of the cloud'\n"
            "set ylabel 'ROUGE-L against the full model'\nplot $best with steps "
            "linecolor 'black' title 'frontier'",
            set->name, set->prompts.n);
    for (int k = 0; k < r->n_exits; k++)
        fprintf(f,
                ", $alone%d using 1:2 with linespoints title 'exit %d alone', $alone%d "
                "using 1:2:3 with labels offset 0,0.7 notitle",
                k, r->layers[k], k);
    fprintf(f, ", $paper using 1:2 with points pointtype 7 title '" EXIT_PAPER "'\n");
}

/* ---- drawing ---- */

/* Into out: the folder, the set's name and an ending. */
static int
name_file(const struct plots *p, char out[MAX_PATH], const struct exit_set *set,
          const char *what, struct err *err)
{
    int n = snprintf(out, MAX_PATH, "%s/%s-%s", p->dir, set->name, what);

    return n > 0 && n < MAX_PATH ? 0 : err_set(err, CE_EINVAL, "%s: too long", p->dir);
}

typedef void draw_fn(FILE *f, const struct exit_report *r, const struct exit_set *set);

static int
write_script(const struct plots *p, const char *script, const char *svg, int width,
             draw_fn *draw, const struct exit_set *set, struct err *err)
{
    FILE *f = fopen(script, "we");
    bool ok;

    if (!f)
        return err_set(err, CE_EIO, "%s: %s", script, strerror(errno));
    fprintf(f,
            "set terminal svg size %d,480 dynamic font 'sans,12' background 'white'\n"
            "set output '",
            width);
    for (const char *s = svg; *s != '\0'; s++) {
        if (*s == '\'')
            fputc('\'', f);
        fputc(*s, f);
    }
    fprintf(f, "'\nset grid\n");
    draw(f, p->r, set);
    ok = !ferror(f);
    if (fclose(f) != 0 || !ok)
        return err_set(err, CE_EIO, "%s: %s", script, strerror(errno));
    return 0;
}

static int
draw_one(const struct plots *p, const struct exit_set *set, const char *what, int width,
         draw_fn *draw, struct err *err)
{
    char script[MAX_PATH], svg[MAX_PATH], ending[64];
    char *argv[] = { (char *)p->gnuplot, script, NULL };
    int rc;

    snprintf(ending, sizeof(ending), "%s.gnuplot", what);
    rc = name_file(p, script, set, ending, err);
    snprintf(ending, sizeof(ending), "%s.svg", what);
    if (rc == 0)
        rc = name_file(p, svg, set, ending, err);
    if (rc == 0)
        rc = write_script(p, script, svg, width, draw, set, err);
    if (rc == 0)
        rc = program_capture(argv, NULL, err);
    if (rc == 0)
        unlink(script);
    return rc;
}

int
exit_plots_check(struct err *err)
{
    struct plots p = { 0 };

    return find_gnuplot(&p, err);
}

int
exit_plots_write(const struct exit_report *r, const char *dir, struct err *err)
{
    struct plots p = { .r = r, .dir = dir };
    int rc = find_gnuplot(&p, err);

    if (rc == 0 && mkdir(dir, 0777) != 0 && errno != EEXIST)
        rc = err_set(err, CE_EIO, "%s: %s", dir, strerror(errno));
    for (int i = 0; rc == 0 && i < r->n_sets; i++) {
        rc = draw_one(&p, &r->sets[i], "exits", 960, draw_exits, err);
        if (rc == 0 && r->sets[i].frontier.n > 0)
            rc = draw_one(&p, &r->sets[i], "frontier", 720, draw_frontier, err);
    }
    return rc;
}
