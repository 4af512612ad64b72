#include "naru/claims.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdlib.h>

#include "naru/os.h"

#define MAGIC 0x4c43524eu /* "NRCL" */
#define VERSION 2u
#define PAGE 4096u

int nr_claims_map(int fd, struct nr_claims **out)
{
    struct nr_claims *claims;
    int64_t size = nr_os_file_size(fd);
    int seals = nr_os_get_seals(fd);
    void *mapped;
    int result;

    if (size != PAGE || seals < 0 || !(seals & F_SEAL_SHRINK))
        return -EPROTO;
    claims = calloc(1, sizeof *claims);
    if (!claims)
        return -ENOMEM;
    result = nr_os_map(NULL, PAGE, fd, 0, &mapped);
    if (result < 0) {
        free(claims);
        return result;
    }
    claims->page = mapped;
    claims->fd = fd;
    atomic_store(&claims->references, 1);
    if (claims->page->magic != MAGIC || claims->page->version != VERSION) {
        claims->fd = -1; /* still the caller's */
        nr_claims_release(claims);
        return -EPROTO;
    }
    *out = claims;
    return 0;
}

int nr_claims_create(struct nr_claims **out)
{
    const uint32_t magic[2] = {MAGIC, VERSION};
    const struct iovec part = {(void *)magic, sizeof magic};
    int fd = nr_os_memfd("naru-pair");
    int result;

    if (fd < 0)
        return fd;
    result = nr_os_allocate(fd, PAGE);
    if (result == 0)
        result = (int)nr_os_write_parts(fd, &part, 1);
    if (result >= 0)
        result = nr_os_add_seals(fd, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    if (result >= 0)
        result = nr_claims_map(fd, out);
    if (result < 0)
        nr_os_close(fd);
    return result;
}

void nr_claims_retain(struct nr_claims *claims)
{
    atomic_fetch_add_explicit(&claims->references, 1, memory_order_relaxed);
}

void nr_claims_release(struct nr_claims *claims)
{
    if (atomic_fetch_sub_explicit(&claims->references, 1, memory_order_acq_rel) != 1)
        return;
    nr_os_unmap(claims->page, PAGE);
    if (claims->fd >= 0)
        nr_os_close(claims->fd);
    free(claims);
}

bool nr_claims_take(struct nr_claims *claims, int index, uint32_t token)
{
    uint32_t nobody = 0;

    if (!atomic_compare_exchange_strong(&claims->page->owner[index], &nobody, token))
        return nobody == token;
    atomic_store(&claims->page->since_ns[index], nr_os_now_ns());
    return true;
}

uint32_t nr_claims_owner(const struct nr_claims *claims, int index)
{
    return atomic_load_explicit(&claims->page->owner[index], memory_order_acquire);
}

uint64_t nr_claims_age_ns(const struct nr_claims *claims, int index)
{
    uint64_t since = atomic_load(&claims->page->since_ns[index]), now = nr_os_now_ns();

    return since == 0 || now < since ? 0 : now - since;
}
