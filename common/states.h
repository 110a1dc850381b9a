/* SPDX-License-Identifier: Apache-2.0
 * states.h - codecs of hidden states on the wire (doc/PROTOCOL.md section 7; the
 * paper's half precision, section 4.3).
 *
 * Thread: any; pure functions.
 */
#ifndef CE_COMMON_STATES_H
#define CE_COMMON_STATES_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum states_codec {
    STATES_F32 = 0,
    STATES_F16 = 1,
};

#define STATES_N_CODECS 2

/* "f32", "f16". */
const char *states_codec_name(enum states_codec codec);

/* 0, or CE_EUNSUPPORTED for an unknown name. */
int states_codec_find(const char *name, size_t len, enum states_codec *out);

/* Bytes of one row of d elements. */
size_t states_row_bytes(enum states_codec codec, size_t d);

/* rows: [n, d] float, row-major, finite. out: n * states_row_bytes bytes. */
void states_encode(enum states_codec codec, const float *rows, size_t n, size_t d,
                   uint8_t *out);

/* The reverse. CE_EFORMAT when a value is not finite or an exponent is out of
 * range; what was written to `rows` is then meaningless. */
int states_decode(enum states_codec codec, const uint8_t *in, size_t n, size_t d,
                  float *rows) CE_MUSTCHECK;

#endif
