/* SPDX-License-Identifier: Apache-2.0
 * frame_scan.c - walks a msgpack map without believing it.
 *
 * One pass, no recursion, no memory. Every length is compared with the bytes
 * that are left before it is used, and an array's count as well (an element
 * takes at least one byte), so the work is bounded by the size of the map.
 */
#include "common/frame_scan.h"

#include "common/bytebuf.h"

enum item {
    ITEM_UINT,
    ITEM_STR,
    ITEM_SCALAR, /* float, bool, binary */
    ITEM_ARRAY,
    ITEM_MAP,
    ITEM_BAD,
};

/* The next item's head, and for strings and binaries their bytes. *value is an
 * integer's value or a container's count. */
static enum item
next_item(struct bytereader *r, uint64_t *value)
{
    uint8_t tag = bytereader_u8(r);

    *value = 0;
    if (tag <= 0x7f) {
        *value = tag;
        return ITEM_UINT;
    }
    if (tag <= 0x8f) {
        *value = tag & 0x0f;
        return ITEM_MAP;
    }
    if (tag <= 0x9f) {
        *value = tag & 0x0f;
        return ITEM_ARRAY;
    }
    if (tag <= 0xbf) {
        bytereader_bytes(r, tag & 0x1f);
        return ITEM_STR;
    }
    switch (tag) {
    case 0xc2:
    case 0xc3:
        return ITEM_SCALAR;
    case 0xc4:
        bytereader_bytes(r, bytereader_u8(r));
        return ITEM_SCALAR;
    case 0xc5:
        bytereader_bytes(r, bytereader_u16(r));
        return ITEM_SCALAR;
    case 0xc6:
        bytereader_bytes(r, bytereader_u32(r));
        return ITEM_SCALAR;
    case 0xca:
        bytereader_bytes(r, 4);
        return ITEM_SCALAR;
    case 0xcb:
        bytereader_bytes(r, 8);
        return ITEM_SCALAR;
    case 0xcc:
        *value = bytereader_u8(r);
        return ITEM_UINT;
    case 0xcd:
        *value = bytereader_u16(r);
        return ITEM_UINT;
    case 0xce:
        *value = bytereader_u32(r);
        return ITEM_UINT;
    case 0xcf:
        *value = bytereader_u64(r);
        return ITEM_UINT;
    case 0xd9:
        bytereader_bytes(r, bytereader_u8(r));
        return ITEM_STR;
    case 0xda:
        bytereader_bytes(r, bytereader_u16(r));
        return ITEM_STR;
    case 0xdb:
        bytereader_bytes(r, bytereader_u32(r));
        return ITEM_STR;
    case 0xdc:
        *value = bytereader_u16(r);
        return ITEM_ARRAY;
    case 0xdd:
        *value = bytereader_u32(r);
        return ITEM_ARRAY;
    case 0xde:
        *value = bytereader_u16(r);
        return ITEM_MAP;
    case 0xdf:
        *value = bytereader_u32(r);
        return ITEM_MAP;
    default: /* nil, extensions, negative integers, 0xc1 */
        return ITEM_BAD;
    }
}

static int
bad(struct err *err, const struct bytereader *r, const char *what)
{
    return err_set(err, CE_EFORMAT, "map offset %zu: %s", r->pos,
                   r->status != CE_OK ? "ends too early" : what);
}

/* Elements of an array: unsigned integers or strings, no deeper. */
static int
scan_array(struct bytereader *r, uint64_t n, struct err *err)
{
    if (n > bytereader_left(r))
        return bad(err, r, "array longer than the map");
    for (uint64_t i = 0; i < n; i++) {
        uint64_t ignored;
        enum item item = next_item(r, &ignored);

        if (r->status != CE_OK || (item != ITEM_UINT && item != ITEM_STR))
            return bad(err, r, "only integers and strings may be in an array");
    }
    return CE_OK;
}

static int
scan_value(struct bytereader *r, struct err *err)
{
    uint64_t n;
    enum item item = next_item(r, &n);

    if (r->status != CE_OK)
        return bad(err, r, "");
    switch (item) {
    case ITEM_UINT:
    case ITEM_STR:
    case ITEM_SCALAR:
        return CE_OK;
    case ITEM_ARRAY:
        return scan_array(r, n, err);
    case ITEM_MAP:
        return bad(err, r, "a map inside a map");
    case ITEM_BAD:
        break;
    }
    return bad(err, r, "a value of a kind that frames do not have");
}

int
frame_scan(const uint8_t *map, size_t size, struct err *err)
{
    struct bytereader r;
    uint64_t n, keys_seen = 0;
    enum item item;

    bytereader_init(&r, map, size);
    item = next_item(&r, &n);
    if (r.status != CE_OK || item != ITEM_MAP)
        return bad(err, &r, "not a map");
    if (n > FRAME_MAX_ENTRIES || n > bytereader_left(&r) / 2)
        return bad(err, &r, "too many entries");
    for (uint64_t i = 0; i < n; i++) {
        uint64_t key;
        int rc;

        item = next_item(&r, &key);
        if (r.status != CE_OK || item != ITEM_UINT || key >= FRAME_MAX_ENTRIES)
            return bad(err, &r, "a key that is not 0 to 63");
        if (keys_seen >> key & 1)
            return bad(err, &r, "a key that was there before");
        keys_seen |= (uint64_t)1 << key;
        rc = scan_value(&r, err);
        if (rc != CE_OK)
            return rc;
    }
    if (bytereader_left(&r) != 0)
        return bad(err, &r, "bytes after the map");
    return CE_OK;
}
