/* services.h: a service on an engine in a thread of its own, and blocking clients, for the C tests. */
#ifndef NR_TESTS_SERVICES_H
#define NR_TESTS_SERVICES_H

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "check.h"
#include "naru/protocol.h"

struct house {
    struct nr_engine *engine;
    struct nr_service *service;
    pthread_t thread;
    struct sockaddr_storage address;
    socklen_t address_bytes;
    int run_result;
};

/* A listening TCP socket of any port, or a Unix one of an abstract name that the kernel picks. */
__attribute__((unused)) static int house_listener(int family, struct sockaddr_storage *address,
                                                  socklen_t *size, int backlog)
{
    int fd = nr_os_socket(family);

    memset(address, 0, sizeof *address);
    address->ss_family = (sa_family_t)family;
    *size = sizeof(sa_family_t); /* unix(7): autobind */
    if (family == AF_INET) {
        ((struct sockaddr_in *)address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        *size = sizeof(struct sockaddr_in);
    }
    REQUIRE(fd >= 0 && bind(fd, (struct sockaddr *)address, *size) == 0 && listen(fd, backlog) == 0);
    *size = sizeof *address;
    REQUIRE(getsockname(fd, (struct sockaddr *)address, size) == 0);
    REQUIRE(fcntl(fd, F_SETFL, 0) == 0); /* some tests accept themselves */
    return fd;
}

__attribute__((unused)) static void *house_run(void *data)
{
    struct house *house = data;

    house->run_result = nr_engine_run(house->engine, NR_FOREVER);
    return NULL;
}

__attribute__((unused)) static void house_make(struct house *house, int family,
                                               const struct nr_service_settings *settings)
{
    int fd;

    memset(house, 0, sizeof *house);
    REQUIRE(nr_engine_create(NULL, &house->engine) == 0);
    REQUIRE(nr_service_create(house->engine, settings, &house->service) == 0);
    fd = house_listener(family, &house->address, &house->address_bytes, 1024);
    REQUIRE(nr_service_listen(house->service, fd) == 0);
}

__attribute__((unused)) static void house_open(struct house *house, int family,
                                               const struct nr_service_settings *settings)
{
    house_make(house, family, settings);
    REQUIRE(pthread_create(&house->thread, NULL, house_run, house) == 0);
}

__attribute__((unused)) static void house_stop(struct house *house)
{
    nr_engine_stop(house->engine);
    pthread_join(house->thread, NULL);
    CHECK_EQUAL(house->run_result, 1);
}

__attribute__((unused)) static void house_destroy(struct house *house)
{
    nr_service_destroy(house->service);
    nr_engine_destroy(house->engine);
}

__attribute__((unused)) static void house_close(struct house *house)
{
    house_stop(house);
    house_destroy(house);
}

__attribute__((unused)) static struct nr_service_statistics house_counts(const struct house *house)
{
    struct nr_service_statistics counts;

    nr_service_read_statistics(house->service, &counts);
    return counts;
}

/* Until the service has counted it; check_watch() ends what never comes. */
#define HOUSE_AWAIT(house, condition)                                                              \
    for (struct nr_service_statistics counts = house_counts(house); !(condition);                  \
         counts = house_counts(house))                                                             \
    usleep(1000)

/* A blocking client. */
__attribute__((unused)) static int house_visit(const struct house *house)
{
    int fd = socket(house->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

    REQUIRE(fd >= 0);
    REQUIRE(connect(fd, (const struct sockaddr *)&house->address, house->address_bytes) == 0);
    return fd;
}

__attribute__((unused)) static void house_send(int fd, const void *bytes, size_t size)
{
    REQUIRE(send(fd, bytes, size, MSG_NOSIGNAL) == (ssize_t)size);
}

__attribute__((unused)) static bool house_expect(int fd, const void *bytes, size_t size)
{
    uint8_t *got = malloc(size ? size : 1);
    ssize_t count = recv(fd, got, size, MSG_WAITALL);
    bool same = count == (ssize_t)size && memcmp(got, bytes, size) == 0;

    free(got);
    return CHECK(same);
}

#endif
