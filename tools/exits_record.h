/* SPDX-License-Identifier: Apache-2.0
 * exits_record.h - figures of a model's exits, noted in their file (doc/EXITS.md).
 *
 * Thread: any.
 */
#ifndef CE_TOOLS_EXITS_RECORD_H
#define CE_TOOLS_EXITS_RECORD_H

#include <stdbool.h>

#include "common/error.h"
#include "engine/model.h"

#define EXITS_RECORD_SET 64

struct exits_record {
    float theta[MODEL_MAX_EXITS];           /* suggested; 1: the exit is not worth it */
    float agreement[MODEL_MAX_EXITS];       /* of each exit with the final head */
    float request_rate, rouge_l, identical; /* of answers under these thresholds */
    int prompts, max_tokens;
    char set[EXITS_RECORD_SET]; /* name of the prompts */
};

/* Rewrite the side file that m's exits came from, with the record in place of what it had
 * of the kind; all else is copied. The file is replaced at once, by way of PATH.tmp.
 * CE_EUNSUPPORTED when the exits are in no side file or the model does not hold all. */
int exits_record_write(const struct exits_record *r, const struct model *m,
                       struct err *err) CE_MUSTCHECK;

/* The record in the file of m's exits; false when there is none that is whole. */
bool exits_record_read(struct exits_record *out, const struct model *m);

#endif
