/* Services: echo and the byte proxy, with clients that behave and clients that do not. */
#include "services.h"

static void echo_over(int family)
{
    struct house house;
    int fds[50];

    house_open(&house, family, &(struct nr_service_settings){.protocol = &nr_protocol_echo});
    for (int i = 0; i < 50; i++)
        fds[i] = house_visit(&house);
    for (int round = 0; round < 20; round++)
        for (int i = 0; i < 50; i++) {
            char text[64];

            snprintf(text, sizeof text, "round %d of %d", round, i);
            house_send(fds[i], text, sizeof text);
            house_expect(fds[i], text, sizeof text);
        }
    for (int i = 0; i < 50; i++) {
        shutdown(fds[i], SHUT_WR);
        CHECK_EQUAL(recv(fds[i], (char[1]){0}, 1, 0), 0);
        close(fds[i]);
    }
    HOUSE_AWAIT(&house, counts.open == 0);
    CHECK_EQUAL(house_counts(&house).accepted, 50);
    CHECK_EQUAL(house_counts(&house).closed_orderly, 50);
    CHECK_EQUAL(house_counts(&house).bytes_received, 50 * 20 * 64);
    house_close(&house);
}

static void echo_tcp(void) { echo_over(AF_INET); }
static void echo_unix(void) { echo_over(AF_UNIX); }

static void make_proxy(struct house *proxy, int family, const struct house *target)
{
    struct nr_splice_target to = {.address = target->address,
                                  .address_bytes = target->address_bytes};
    struct nr_splice *splice;

    REQUIRE(nr_splice_create(&to, &splice) == 0);
    house_open(proxy, family,
               &(struct nr_service_settings){.protocol = &nr_protocol_splice, .context = splice});
}

struct pour {
    int fd;
    size_t size;
};

static void *pour_bytes(void *data)
{
    struct pour *pour = data;
    uint8_t block[50000];
    size_t sent = 0;

    while (sent < pour->size) {
        size_t size = pour->size - sent < sizeof block ? pour->size - sent : sizeof block;

        for (size_t i = 0; i < size; i++)
            block[i] = (uint8_t)((sent + i) * 2654435761u >> 13);
        if (!CHECK(send(pour->fd, block, size, MSG_NOSIGNAL) == (ssize_t)size))
            break;
        sent += size;
    }
    shutdown(pour->fd, SHUT_WR);
    return NULL;
}

static void proxy_carries(int outside, int inside, size_t size)
{
    struct house echo, proxy;
    struct pour pour = {.size = size};
    pthread_t thread;
    uint8_t block[30000];
    size_t got = 0;
    ssize_t count;

    house_open(&echo, inside, &(struct nr_service_settings){.protocol = &nr_protocol_echo});
    make_proxy(&proxy, outside, &echo);
    pour.fd = house_visit(&proxy);
    REQUIRE(pthread_create(&thread, NULL, pour_bytes, &pour) == 0);
    while ((count = recv(pour.fd, block, sizeof block, 0)) > 0) {
        for (ssize_t i = 0; i < count; i++)
            if (!CHECK(block[i] == (uint8_t)((got + (size_t)i) * 2654435761u >> 13)))
                break;
        got += (size_t)count;
    }
    CHECK_EQUAL(count, 0);
    CHECK_EQUAL(got, size);
    pthread_join(thread, NULL);
    close(pour.fd);
    HOUSE_AWAIT(&proxy, counts.open == 0);
    CHECK_EQUAL(house_counts(&proxy).closed_orderly, 2);
    house_close(&proxy);
    house_close(&echo);
}

static void proxy_tcp_to_unix(void) { proxy_carries(AF_INET, AF_UNIX, 20000000); }
static void proxy_unix_to_tcp(void) { proxy_carries(AF_UNIX, AF_INET, 20000000); }
static void proxy_one_byte(void) { proxy_carries(AF_UNIX, AF_UNIX, 1); }
static void proxy_nothing(void) { proxy_carries(AF_INET, AF_INET, 0); }

int main(void)
{
    RUN(echo_tcp);
    RUN(echo_unix);
    RUN(proxy_tcp_to_unix);
    RUN(proxy_unix_to_tcp);
    RUN(proxy_one_byte);
    RUN(proxy_nothing);
    return check_finish();
}
