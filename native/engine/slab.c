#include <stdlib.h>
#include <string.h>

#include "parts.h"

void nr_slab_init(struct nr_slab *slab, size_t item_bytes)
{
    *slab = (struct nr_slab){.item_bytes = item_bytes};
}

void nr_slab_destroy(struct nr_slab *slab)
{
    for (uint32_t i = 0; i * NR_SLAB_CHUNK_ITEMS < slab->place_count; i++)
        free(slab->chunks[i]);
    free(slab->chunks);
    slab->chunks = NULL;
    slab->place_count = 0;
}

static struct nr_slab_item *item_at(const struct nr_slab *slab, uint32_t place)
{
    return nr_slab_at(slab, place);
}

static int add_chunk(struct nr_slab *slab)
{
    uint32_t index = slab->place_count / NR_SLAB_CHUNK_ITEMS;
    uint8_t *chunk;

    if (slab->place_count > UINT32_MAX - 2 * NR_SLAB_CHUNK_ITEMS)
        return -1;
    if (index == slab->chunk_room) {
        uint32_t room = slab->chunk_room ? slab->chunk_room * 2 : 8;
        uint8_t **chunks = realloc(slab->chunks, room * sizeof *chunks);

        if (!chunks)
            return -1;
        slab->chunks = chunks;
        slab->chunk_room = room;
    }
    chunk = calloc(NR_SLAB_CHUNK_ITEMS, slab->item_bytes);
    if (!chunk)
        return -1;
    slab->chunks[index] = chunk;
    slab->place_count += NR_SLAB_CHUNK_ITEMS;
    for (uint32_t place = slab->place_count; place-- > slab->place_count - NR_SLAB_CHUNK_ITEMS;) {
        item_at(slab, place)->next_free = slab->first_free;
        slab->first_free = place + 1;
    }
    return 0;
}

void *nr_slab_take(struct nr_slab *slab, uint32_t *place)
{
    struct nr_slab_item *item;

    if (slab->first_free == 0 && add_chunk(slab) < 0)
        return NULL;
    *place = slab->first_free - 1;
    item = item_at(slab, *place);
    slab->first_free = item->next_free;
    slab->used++;
    memset((uint8_t *)item + sizeof *item, 0, slab->item_bytes - sizeof *item);
    item->generation++; /* odd: in use */
    item->next_free = 0;
    return item;
}

void nr_slab_give(struct nr_slab *slab, uint32_t place)
{
    struct nr_slab_item *item = item_at(slab, place);

    item->generation++;
    item->next_free = slab->first_free;
    slab->first_free = place + 1;
    slab->used--;
}
