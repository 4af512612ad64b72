#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "naru/os.h"

int nr_os_memfd(const char *name)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

    return fd < 0 ? -errno : fd;
}

int nr_os_allocate(int fd, uint64_t size)
{
    int error;

    do
        error = posix_fallocate(fd, 0, (off_t)size);
    while (error == EINTR);
    return -error;
}

int nr_os_add_seals(int fd, int seals) { return fcntl(fd, F_ADD_SEALS, seals) < 0 ? -errno : 0; }

int nr_os_get_seals(int fd)
{
    int seals = fcntl(fd, F_GET_SEALS);

    return seals < 0 ? -errno : seals;
}

int64_t nr_os_file_size(int fd)
{
    struct stat status;

    return fstat(fd, &status) < 0 ? -errno : status.st_size;
}

static int map_shared(void *address, size_t size, int protection, int fd, uint64_t offset,
                      void **mapped)
{
    int flags = MAP_SHARED | (address ? MAP_FIXED : 0);
    void *place = mmap(address, size, protection, flags, fd, (off_t)offset);

    if (place == MAP_FAILED)
        return -errno;
    *mapped = place;
    return 0;
}

int nr_os_map(void *address, size_t size, int fd, uint64_t offset, void **mapped)
{
    return map_shared(address, size, PROT_READ | PROT_WRITE, fd, offset, mapped);
}

int nr_os_map_readable(void *address, size_t size, int fd, uint64_t offset, void **mapped)
{
    return map_shared(address, size, PROT_READ, fd, offset, mapped);
}

int nr_os_map_reserve(size_t size, void **mapped)
{
    void *place = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (place == MAP_FAILED)
        return -errno;
    *mapped = place;
    return 0;
}

int nr_os_unmap(void *address, size_t size) { return munmap(address, size) < 0 ? -errno : 0; }

static int membarrier(int command)
{
    return syscall(SYS_membarrier, command, 0, 0) < 0 ? -errno : 0;
}

int nr_os_barrier_register(void) { return membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED); }

int nr_os_barrier(void) { return membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED); }
