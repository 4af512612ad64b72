/* fuzz_main.h: one fuzz target, two programs.
 *
 * With clang -fsanitize=fuzzer -DNR_LIBFUZZER libFuzzer brings its own main(). Without, this one
 * replays the files of the given directories, so that every input that once failed stays an
 * ordinary test. A target reports a fault by FUZZ_REQUIRE, which aborts. */
#ifndef NR_TESTS_FUZZ_MAIN_H
#define NR_TESTS_FUZZ_MAIN_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_REQUIRE(condition)                                                                    \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* The input as a stream of numbers; zeroes after its end. */
struct fuzz_input {
    const uint8_t *data;
    size_t size;
};

static inline uint64_t fuzz_take(struct fuzz_input *input, size_t bytes)
{
    uint64_t value = 0;
    size_t taken = bytes < input->size ? bytes : input->size;

    memcpy(&value, input->data, taken);
    input->data += taken;
    input->size -= taken;
    return value;
}

#ifndef NR_LIBFUZZER

#include <dirent.h>

static uint8_t fuzz_buffer[1 << 16];

static int fuzz_replay_directory(const char *path)
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    int replayed = 0;

    if (!directory) {
        perror(path);
        return -1;
    }
    while ((entry = readdir(directory))) {
        char name[4096];
        size_t size;
        FILE *file;
        uint8_t *exact;

        if (entry->d_name[0] == '.')
            continue;
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        file = fopen(name, "rb");
        if (!file) {
            perror(name);
            closedir(directory);
            return -1;
        }
        size = fread(fuzz_buffer, 1, sizeof fuzz_buffer, file);
        fclose(file);
        fprintf(stderr, "%s\n", name); /* the last line before a crash names its input */
        exact = malloc(size ? size : 1); /* of the exact size, for ASan */
        if (!exact)
            return -1;
        memcpy(exact, fuzz_buffer, size);
        LLVMFuzzerTestOneInput(exact, size);
        free(exact);
        replayed++;
    }
    closedir(directory);
    return replayed;
}

int main(int argc, char **argv)
{
    int passed = 0, failed = 0;

    for (int i = 1; i < argc; i++) {
        int replayed = fuzz_replay_directory(argv[i]);

        if (replayed > 0)
            passed += replayed;
        else
            failed++; /* an empty corpus tests nothing */
    }
    LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
    printf("%d passed, %d failed\n", passed + 1, failed);
    return failed != 0 || argc < 2;
}

#endif
#endif
