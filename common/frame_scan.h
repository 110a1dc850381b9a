/* SPDX-License-Identifier: Apache-2.0
 * frame_scan.h - is this one harmless msgpack map? For frame.c only.
 *
 * Looks at every byte before a library allocates for what they promise: five
 * bytes of msgpack can ask for 256 GiB. Bounds are those of doc/PROTOCOL.md
 * section 2.
 */
#ifndef CE_COMMON_FRAME_SCAN_H
#define CE_COMMON_FRAME_SCAN_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define FRAME_MAX_ENTRIES 64 /* of a map; keys are 0 to 63 */

/* 0 when the `size` bytes are exactly one map with keys 0 to 63, each once, and
 * values of the kinds allowed; else CE_EFORMAT with offset and reason. */
int frame_scan(const uint8_t *map, size_t size, struct err *err) CE_MUSTCHECK;

#endif
