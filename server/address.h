/* SPDX-License-Identifier: Apache-2.0
 * address.h - "host:port" as a setting says it, and the address that comes of it.
 *
 * Thread: any; a name that must be looked up waits for the resolver, so only at start.
 */
#ifndef CE_SERVER_ADDRESS_H
#define CE_SERVER_ADDRESS_H

#include <stdbool.h>

#include <netdb.h>
#include <sys/socket.h>

#include "common/error.h"

#define ADDRESS_HOST_SIZE 64

/* "host:port", "[v6]:port" or "*:port" to addresses to bind; free with freeaddrinfo.
 * `key` names the setting in errors. */
int address_resolve(const char *key, const char *text, struct addrinfo **out,
                    struct err *err) CE_MUSTCHECK;

/* Only this machine can reach it. */
bool address_is_loopback(const struct sockaddr *sa);

/* The address that a socket is really bound to; returns the port, 0 when unknown
 * (host is then ""). */
int address_of_socket(int fd, char host[ADDRESS_HOST_SIZE]);

#endif
