/* SPDX-License-Identifier: Apache-2.0
 * traits.h - what sets a model apart from the plain Llama graph: the order and scaling
 * of its rope, biases, norms inside attention.
 *
 * Read from the file's keys and tensors, not from what this build does with them; a
 * model that it cannot compute does not open.
 *
 * Thread: any; no state.
 */
#ifndef CE_TOOLS_TRAITS_H
#define CE_TOOLS_TRAITS_H

#include <stdbool.h>

#include "engine/model.h"

struct traits {
    bool rope_halves;      /* rope turns x[i] with x[i + n/2]; else neighbours */
    char rope_scaling[32]; /* "linear", "yarn", ... ; "llama3" for factors in a tensor;
                              "" for none */
    double rope_factor;    /* 0: the file names none */
    double rope_original_context; /* 0: the file names none */
    bool biases;                  /* of q, k and v */
    bool qk_norm;                 /* each head of q and k is normalised */
    char chat_template[64];       /* name; "" for none that is known */
    bool has_chat_template;       /* the file has the text of one */
};

void traits_read(struct traits *t, const struct model *m);

/* One line: "rope of neighbours, linear scaling by 4; biases on q, k, v". out: [cap] */
char *traits_text(char *out, size_t cap, const struct traits *t, const struct model *m);

#endif
