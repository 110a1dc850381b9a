/* SPDX-License-Identifier: Apache-2.0
 * rouge.h - ROUGE-L: how much of one text is in another, in its order.
 *
 * Words are runs of letters and digits, lower-cased; for English that is what others'
 * programs count without stemming, and it works for any script that puts spaces. With l
 * the length of the longest common subsequence of words, precision is l over the words of
 * the one text, recall l over the words of the other, and the figure their harmonic mean.
 * Two texts without a word are alike (1) when their bytes are equal, else 0.
 *
 * Thread: any; no state.
 */
#ifndef CE_TOOLS_ROUGE_H
#define CE_TOOLS_ROUGE_H

#include <stddef.h>

#include "common/error.h"

/* A text cut into words, each word as a number: equal words have equal numbers with all
 * texts (a hash of 64 bits). */
struct rouge_text {
    unsigned long long *words; /* [n], owned */
    size_t n;
    unsigned long long whole; /* of all bytes */
};

/* Bytes that are not UTF-8 separate words. CE_ENOMEM. */
int rouge_cut(struct rouge_text *out, const char *text, size_t len,
              struct err *err) CE_MUSTCHECK;
void rouge_free(struct rouge_text *t); /* accepts an empty one */

/* *f1: 0 to 1, the same whichever text comes first. CE_ENOMEM. */
int rouge_l(double *f1, const struct rouge_text *a, const struct rouge_text *b,
            struct err *err) CE_MUSTCHECK;

#endif
