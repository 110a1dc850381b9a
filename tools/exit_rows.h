/* SPDX-License-Identifier: Apache-2.0
 * exit_rows.h - what exits are trained on: for each position of some texts the states
 * after each exit's blocks, and the model's own final distribution.
 *
 * They are made once and read many times, in any order. There may be millions, so they
 * live in a file, row after row; the kernel keeps in memory what fits. A row holds
 *
 *   half    states[n_exits][d]     residual stream after the exit's blocks; numbers
 *                                  beyond half floats are stored as the largest
 *   int32   ids[n_top]             the final distribution's likeliest ids
 *   float   logp[n_top]            and the logarithms of their probabilities, descending
 *
 * Beside the rows the file has, for each exit, sums for the least-squares map from its
 * state to the last one: xx = sum (x,1)(x,1)^T and xy = sum (x,1) y^T over the training
 * rows, where y is the state after the last block divided by its root mean square (the
 * final norm removes its length). The sums are dear and need no more than some ten
 * thousand rows, so they are over the first EXIT_ROWS_ALL_SUMMED training rows and one in
 * EXIT_ROWS_SUMMED of the others.
 *
 * One sequence in EXIT_ROWS_HELD_OUT is held out: its rows are not trained on.
 *
 * The file, little-endian: a header of 256 bytes (struct head in exit_rows.c), the rows,
 * a byte for each row (1: held out), then xx and xy of each exit in doubles.
 *
 * Thread: one owner; reading functions may be called by several threads at once.
 */
#ifndef CE_TOOLS_EXIT_ROWS_H
#define CE_TOOLS_EXIT_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "engine/backend.h"
#include "engine/model.h"

#define EXIT_ROWS_HELD_OUT   50 /* one sequence in so many is held out */
#define EXIT_ROWS_ALL_SUMMED 16384
#define EXIT_ROWS_SUMMED     8

struct exit_rows_shape {
    int n_exits;
    int layers[MODEL_MAX_EXITS]; /* ascending */
    int d_model, n_vocab;
    int n_top;               /* 1 to BACKEND_MAX_TOP */
    uint8_t fingerprint[32]; /* the model's (model.h) */
    uint8_t recipe[32];      /* of what made the rows: data, options, seed. Equal recipes
                                give equal rows, so an old file can be taken again */
    bool cut_short;          /* there are fewer than the recipe would give */
};

struct exit_rows;

/* ---- writing ---- */

/* A new file, at PATH.tmp until exit_rows_finish. CE_EINVAL: the shape makes no sense. */
int exit_rows_create(struct exit_rows **out, const char *path,
                     const struct exit_rows_shape *shape, struct err *err) CE_MUSTCHECK;

/* A row: states [n_exits][d] after each exit, last [d] after the last block, the final
 * head's result with n_top entries. A row whose numbers are not finite is left out. */
int exit_rows_add(struct exit_rows *r, const float *const *states, const float *last,
                  const struct head_result *final, bool held_out,
                  struct err *err) CE_MUSTCHECK;

/* Rows so far, of both kinds. */
size_t exit_rows_written(const struct exit_rows *r);

/* To be said before exit_rows_finish when not all rows were made. */
void exit_rows_cut_short(struct exit_rows *r);

/* Write sums and counts, and give the file its name; afterwards the rows can be read. */
int exit_rows_finish(struct exit_rows *r, struct err *err) CE_MUSTCHECK;

/* ---- reading ---- */

/* CE_EFORMAT with the reason when it is no complete file of rows. */
int exit_rows_open(struct exit_rows **out, const char *path,
                   struct err *err) CE_MUSTCHECK;
/* Accepts NULL. Files stay; one that is not finished goes. */
void exit_rows_close(struct exit_rows *r);

/* Let `more`, which belongs to r from now on, follow r's rows: they are read as rows of
 * one file, whose recipe is of both. The sums stay r's own. CE_EMISMATCH when they are of
 * another model or shape; then `more` is closed. */
int exit_rows_append(struct exit_rows *r, struct exit_rows *more,
                     struct err *err) CE_MUSTCHECK;

const struct exit_rows_shape *exit_rows_shape(const struct exit_rows *r);

/* Rows to train on, or held out. */
size_t exit_rows_count(const struct exit_rows *r, bool held_out);

/* Row i of those: the state of exit k into states[k] [d] (NULL: not wanted), for all
 * exits; ids and logp [n_top]. CE_EFORMAT: numbers that no row can have. */
int exit_rows_read(const struct exit_rows *r, bool held_out, size_t i,
                   float *const *states, int32_t *ids, float *logp,
                   struct err *err) CE_MUSTCHECK;

/* The sums of exit k: xx [(d+1) x (d+1)] (both triangles), xy [(d+1) x d]; and the number
 * of rows in them. Owned by r. */
void exit_rows_sums(const struct exit_rows *r, int k, const double **xx,
                    const double **xy, size_t *n);

#endif
