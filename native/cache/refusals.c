/* One line on standard error for a client that was refused, and why; at most one a second for each reason,
 * which says how many there were in between: whoever is refused cannot fill a disk with it. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "parts.h"

#define LINE_EVERY_NS 1000000000u

static const char *const reasons[NR_REFUSALS] = {
    [NR_REFUSED_LIMIT] = "there are as many clients as it takes (--maxclients)",
    [NR_REFUSED_PASSWORD] = "a wrong password",
    [NR_REFUSED_HTTP] = "it speaks HTTP",
    [NR_REFUSED_BYTES] = "that is no Redis protocol",
};

static void print_in(const struct sockaddr_storage *address, char *text, size_t room)
{
    char host[INET6_ADDRSTRLEN] = "";
    const struct sockaddr_in *in = (const struct sockaddr_in *)address;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;

    if (address->ss_family == AF_INET) {
        inet_ntop(AF_INET, &in->sin_addr, host, sizeof host);
        snprintf(text, room, "%s:%u", host, ntohs(in->sin_port));
    } else {
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
        snprintf(text, room, "[%s]:%u", host, ntohs(in6->sin6_port));
    }
}

void nr_print_address(int fd, bool peer, char *text, size_t room)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    int result = peer ? getpeername(fd, (struct sockaddr *)&address, &size)
                      : getsockname(fd, (struct sockaddr *)&address, &size);

    if (result == 0 && (address.ss_family == AF_INET || address.ss_family == AF_INET6))
        print_in(&address, text, room);
    else
        snprintf(text, room, "unix:0");
}

/* Behind a Unix socket: which process. */
static void print_who(int fd, char *text, size_t room)
{
    struct ucred who;
    socklen_t size = sizeof who;

    nr_print_address(fd, true, text, room);
    if (strcmp(text, "unix:0") == 0 && getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0)
        snprintf(text, room, "process %d of user %u", (int)who.pid, (unsigned)who.uid);
}

void nr_client_refused(struct nr_cache_server *server, const struct nr_connection *c,
                       enum nr_refusal reason)
{
    struct refusal *refusal = &server->refusals[reason];
    uint64_t now = nr_os_coarse_now_ns();
    char who[128], more[64] = "";

    if (refusal->next_ns > now) {
        refusal->unsaid++;
        return;
    }
    print_who(c->fd, who, sizeof who);
    if (refusal->unsaid)
        snprintf(more, sizeof more, " (and %llu others since)", (unsigned long long)refusal->unsaid);
    *refusal = (struct refusal){.next_ns = now + LINE_EVERY_NS};
    dprintf(STDERR_FILENO, "naru: cache server process %u: refused %s: %s%s\n",
            server->settings.process, who, reasons[reason], more);
}
