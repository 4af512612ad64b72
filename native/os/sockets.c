#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <sys/ioctl.h>

#include "naru/os.h"

ssize_t nr_os_receive(int fd, void *buffer, size_t size, int flags)
{
    ssize_t got;

    while ((got = recv(fd, buffer, size, flags)) < 0)
        if (errno != EINTR)
            return -errno;
    return got;
}

ssize_t nr_os_send(int fd, const void *data, size_t size, int flags)
{
    ssize_t sent;

    while ((sent = send(fd, data, size, flags | MSG_NOSIGNAL)) < 0)
        if (errno != EINTR)
            return -errno;
    return sent;
}

ssize_t nr_os_send_message(int fd, const struct msghdr *message, int flags)
{
    ssize_t sent;

    while ((sent = sendmsg(fd, message, flags | MSG_NOSIGNAL)) < 0)
        if (errno != EINTR)
            return -errno;
    return sent;
}

ssize_t nr_os_receive_message(int fd, struct msghdr *message, int flags)
{
    ssize_t got;

    while ((got = recvmsg(fd, message, flags | MSG_CMSG_CLOEXEC)) < 0)
        if (errno != EINTR)
            return -errno;
    return got;
}

int nr_os_set_option(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof value) < 0 ? -errno : 0;
}

int nr_os_socket_error(int fd)
{
    int error = 0;
    socklen_t size = sizeof error;

    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        return -errno;
    return -error;
}

int nr_os_tcp_unsent_bytes(int fd)
{
    int bytes = 0;

    return ioctl(fd, SIOCOUTQNSD, &bytes) < 0 ? -errno : bytes;
}

int64_t nr_os_tcp_silence_ms(int fd)
{
    struct tcp_info info;
    socklen_t size = sizeof info;

    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
        return -errno;
    return info.tcpi_last_data_recv;
}
