#include "artifact/provenance.h"

#include <omp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void read_cpu_model(char text[QS_PROVENANCE_TEXT_BYTES])
{
    (void)snprintf(text, QS_PROVENANCE_TEXT_BYTES, "unknown");
    FILE *file = fopen("/proc/cpuinfo", "re");
    if (file == NULL) return;
    char line[QS_PROVENANCE_TEXT_BYTES];
    while (fgets(line, sizeof line, file) != NULL) {
        char *colon = strchr(line, ':');
        if (colon == NULL || strncmp(line, "model name", strlen("model name")) != 0) continue;
        colon += 1 + strspn(colon + 1, " \t");
        colon[strcspn(colon, "\n")] = '\0';
        if (*colon != '\0') (void)snprintf(text, QS_PROVENANCE_TEXT_BYTES, "%s", colon);
        break;
    }
    (void)fclose(file);
}

void qs_provenance_collect(qs_provenance *out)
{
    *out = (qs_provenance){.n_threads = omp_get_max_threads()};
    (void)qs_clock_utc(out->created);
    if (gethostname(out->host, sizeof out->host - 1) != 0)
        (void)snprintf(out->host, sizeof out->host, "unknown");
    read_cpu_model(out->cpu);
}

/* Appends and keeps room for the NUL; false when the text is full. */
static bool append(char *text, size_t bytes, size_t *used, const char *piece, size_t piece_bytes)
{
    if (piece_bytes >= bytes - *used) return false;
    memcpy(text + *used, piece, piece_bytes);
    *used += piece_bytes;
    text[*used] = '\0';
    return true;
}

static bool append_quoted(char *text, size_t bytes, size_t *used, const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,%@";
    if (*word != '\0' && word[strspn(word, plain)] == '\0')
        return append(text, bytes, used, word, strlen(word));
    bool fits = append(text, bytes, used, "'", 1);
    for (const char *c = word; fits && *c != '\0'; c++)
        fits = *c == '\'' ? append(text, bytes, used, "'\\''", 4) : append(text, bytes, used, c, 1);
    return fits && append(text, bytes, used, "'", 1);
}

void qs_provenance_quote(char *text, size_t bytes, int argc, char *const *argv)
{
    size_t used = 0;
    bool fits = true;
    text[0] = '\0';
    for (int i = 0; fits && i < argc; i++)
        fits = (i == 0 || append(text, bytes, &used, " ", 1)) && append_quoted(text, bytes, &used, argv[i]);
    if (!fits && bytes >= 4) memcpy(text + (used < bytes - 4 ? used : bytes - 4), "...", 4);
}
