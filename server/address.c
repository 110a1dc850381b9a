/* SPDX-License-Identifier: Apache-2.0
 * address.c - see address.h.
 */
#include "server/address.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

int
address_resolve(const char *key, const char *text, struct addrinfo **out, struct err *err)
{
    struct addrinfo hints = { .ai_family = AF_UNSPEC,
                              .ai_socktype = SOCK_STREAM,
                              .ai_flags = AI_PASSIVE | AI_NUMERICSERV };
    const char *colon = strrchr(text, ':'), *begin = text;
    char host[256];
    size_t n;
    int rc;

    if (!colon || colon[1] == '\0')
        return err_set(err, CE_EINVAL, "%s = %s: not host:port", key, text);
    n = (size_t)(colon - text);
    if (n >= 2 && text[0] == '[' && text[n - 1] == ']') {
        begin++;
        n -= 2;
    }
    if (n >= sizeof(host))
        return err_set(err, CE_EINVAL, "%s: the host name is too long", key);
    memcpy(host, begin, n);
    host[n] = '\0';
    rc = getaddrinfo(n == 0 || strcmp(host, "*") == 0 ? NULL : host, colon + 1, &hints,
                     out);
    if (rc != 0)
        return err_set(err, CE_EINVAL, "%s = %s: %s", key, text, gai_strerror(rc));
    return 0;
}

bool
address_is_loopback(const struct sockaddr *sa)
{
    const void *any = sa;

    if (sa->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)any)->sin_addr.s_addr) >> 24 == 127;
    if (sa->sa_family == AF_INET6) {
        const struct in6_addr *a = &((const struct sockaddr_in6 *)any)->sin6_addr;

        return IN6_IS_ADDR_LOOPBACK(a) ||
               (IN6_IS_ADDR_V4MAPPED(a) && a->s6_addr[12] == 127);
    }
    return false;
}

int
address_of_socket(int fd, char host[ADDRESS_HOST_SIZE])
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);
    char port[16];

    host[0] = '\0';
    if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0 ||
        getnameinfo((struct sockaddr *)&sa, len, host, ADDRESS_HOST_SIZE, port,
                    sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return 0;
    return atoi(port);
}
