/* SPDX-License-Identifier: Apache-2.0
 * cloud_msg.c - see cloud_msg.h.
 */
#include "agent/cloud_msg.h"

#include <string.h>

#include "common/memory.h"

struct cloud_msg *
cloud_msg_new(enum cloud_msg_kind kind, const void *data, size_t size)
{
    struct cloud_msg *m = NULL;

    if (size <= SIZE_MAX - sizeof(*m))
        m = mem_array_alloc(1, sizeof(*m) + size);
    if (m == NULL)
        return NULL;
    m->kind = kind;
    m->data_size = size;
    if (data != NULL && size > 0)
        memcpy(m->data, data, size);
    return m;
}

void
cloud_msg_free(struct cloud_msg *m)
{
    mem_free(m);
}

void
cloud_msg_post(struct mailbox *box, struct cloud_msg *m)
{
    if (box != NULL)
        mailbox_post(box, &m->msg);
    else
        cloud_msg_free(m);
}

void
cloud_msg_drop_all(struct mailbox *box)
{
    struct mailbox_msg *m = mailbox_take_all(box);

    while (m != NULL) {
        struct mailbox_msg *next = m->next;
        cloud_msg_free(cloud_msg_of(m));
        m = next;
    }
}

bool
cloud_may_pass(int code, uint32_t retry_ms)
{
    switch (code) {
    case CE_ENOMEM:
    case CE_EIO:
    case CE_ETIMEOUT:
    case CE_ECLOSED:
        return true;
    default:
        return retry_ms > 0;
    }
}
