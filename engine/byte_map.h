/* SPDX-License-Identifier: Apache-2.0
 * byte_map.h - how byte-level vocabularies write bytes as characters.
 *
 * Token texts in such vocabularies are printable: the 188 bytes that are printable
 * Latin-1 characters stand for themselves, and the 68 others, in ascending order,
 * are written as the characters from U+0100 on (so a space is U+0120).
 */
#ifndef CE_ENGINE_BYTE_MAP_H
#define CE_ENGINE_BYTE_MAP_H

#include <stdbool.h>
#include <stdint.h>

static inline bool
byte_map_is_plain(uint32_t c)
{
    return (c >= 33 && c <= 126) || (c >= 161 && c <= 172) || (c >= 174 && c <= 255);
}

/* The character (U+0021 to U+0143) that stands for a byte. */
static inline uint32_t
byte_map_char(uint8_t byte)
{
    if (byte_map_is_plain(byte))
        return byte;
    if (byte <= 32)
        return 256u + byte;
    if (byte <= 160) /* 127 is the 34th byte that is not plain */
        return 256u + 33u + (byte - 127u);
    return 256u + 67u; /* 173 */
}

/* The byte that a character stands for; -1 for any other character. */
static inline int
byte_map_byte(uint32_t c)
{
    if (c < 256)
        return byte_map_is_plain(c) ? (int)c : -1;
    if (c <= 256 + 32)
        return (int)(c - 256);
    if (c < 256 + 67)
        return (int)(c - 256 - 33 + 127);
    return c == 256 + 67 ? 173 : -1;
}

#endif
