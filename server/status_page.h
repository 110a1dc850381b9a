/* SPDX-License-Identifier: Apache-2.0
 * status_page.h - the status page's bytes: server/status.html, which the build turns
 * into status_page.c (build-aux/embed.sh).
 */
#ifndef CE_SERVER_STATUS_PAGE_H
#define CE_SERVER_STATUS_PAGE_H

#include <stddef.h>

extern const unsigned char status_page[];
extern const size_t status_page_size;

#endif
