/* Makes reads of shared memory that nobody has written show: before each block, the bytes of all __shared__ variables
 * become 0xFF.
 *
 * A __shared__ variable is a thread-local one inside of a C++ function (simt.h), and only kernels have those here, so
 * the program's own symbol table tells where they are. Where it cannot be read, nothing is filled. */
#include <elf.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/simt_engine.h"

namespace {

struct range { /* within the thread-local block of the program */
    size_t at, bytes;
};
range *ranges;
int n_ranges;
__thread char *thread_block; /* not within a function, where it would be taken for one of them */

void *read_at(FILE *file, size_t at, size_t bytes)
{
    void *data = malloc(bytes + 1);
    if (data == NULL || fseek(file, (long)at, SEEK_SET) != 0 || fread(data, 1, bytes, file) != bytes) {
        free(data);
        return NULL;
    }
    static_cast<char *>(data)[bytes] = 0;
    return data;
}

/* Names of variables inside of C++ functions begin with _ZZ. */
void collect(const ElfW(Sym) *symbols, size_t n_symbols, const char *names, size_t names_bytes)
{
    ranges = static_cast<range *>(calloc(n_symbols + 1, sizeof *ranges));
    for (size_t i = 0; ranges != NULL && i < n_symbols; i++) {
        const ElfW(Sym) *symbol = &symbols[i];
        if ((symbol->st_info & 15) != STT_TLS || symbol->st_name >= names_bytes) continue;
        if (strncmp(names + symbol->st_name, "_ZZ", 3) == 0) ranges[n_ranges++] = {symbol->st_value, symbol->st_size};
    }
}

void read_symbols(FILE *file, const ElfW(Ehdr) *header)
{
    ElfW(Shdr) *sections = static_cast<ElfW(Shdr) *>(
        read_at(file, header->e_shoff, header->e_shnum * sizeof *sections));
    for (int i = 0; sections != NULL && i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB || sections[i].sh_link >= header->e_shnum) continue;
        const ElfW(Shdr) *strings = &sections[sections[i].sh_link];
        void *symbols = read_at(file, sections[i].sh_offset, sections[i].sh_size);
        void *names = read_at(file, strings->sh_offset, strings->sh_size);
        if (symbols != NULL && names != NULL)
            collect(static_cast<ElfW(Sym) *>(symbols), sections[i].sh_size / sizeof(ElfW(Sym)),
                    static_cast<char *>(names), strings->sh_size);
        free(symbols);
        free(names);
        break;
    }
    free(sections);
}

void find_ranges(void)
{
    FILE *file = fopen("/proc/self/exe", "rb");
    if (file == NULL) return;
    void *header = read_at(file, 0, sizeof(ElfW(Ehdr)));
    if (header != NULL) read_symbols(file, static_cast<ElfW(Ehdr) *>(header));
    free(header);
    fclose(file);
}

/* The first object that is listed is the program. */
int take_block(struct dl_phdr_info *info, size_t, void *out)
{
    *static_cast<char **>(out) = static_cast<char *>(info->dlpi_tls_data);
    return 1;
}

} // namespace

void qs_simt_poison_static_shared(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, find_ranges);
    if (thread_block == NULL) (void)dl_iterate_phdr(take_block, &thread_block);
    if (thread_block == NULL) return;
    for (int i = 0; i < n_ranges; i++) memset(thread_block + ranges[i].at, 0xff, ranges[i].bytes);
}
