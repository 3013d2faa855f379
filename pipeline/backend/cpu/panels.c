#include "backend/cpu/panels.h"

#include <string.h>

void qs_panels_shape(qs_panels *out, const qs_packed *packed)
{
    int64_t columns = qs_panel_chunk_columns(packed->bits);
    *out = (qs_panels){.bits = packed->bits, .n_out = packed->n_out, .n_in = packed->n_in,
                       .group_size = packed->group_size, .n_groups = packed->n_groups,
                       .n_chunks = (packed->n_in + columns - 1) / columns};
}

static int64_t n_panels(const qs_panels *panels) { return (panels->n_out + QS_PANEL_ROWS - 1) / QS_PANEL_ROWS; }

size_t qs_panels_code_bytes(const qs_panels *panels)
{
    return (size_t)(n_panels(panels) * panels->n_chunks * qs_panel_chunk_words(panels->bits) * QS_PANEL_ROWS) *
           sizeof *panels->codes;
}

size_t qs_panels_group_count(const qs_panels *panels)
{
    return (size_t)(n_panels(panels) * panels->n_groups * QS_PANEL_ROWS);
}

/* 64 bits of a row's stream from bit `bit` on, zeros behind its end. */
static uint64_t stream_bits(const uint8_t *codes, int64_t row_bytes, int64_t bit)
{
    uint64_t bits = 0;
    int64_t byte = bit / 8, n_bytes = row_bytes - byte < 8 ? row_bytes - byte : 8;
    if (n_bytes > 0) memcpy(&bits, codes + byte, (size_t)n_bytes);
    return bits >> (bit % 8);
}

/* 3 bits: ten codes in bits 0-29 of each word; the last two codes, six bits, in the words' top pairs. */
static void chunk_words_3(const uint8_t *codes, int64_t row_bytes, int64_t chunk, uint32_t words[3])
{
    uint64_t bits = stream_bits(codes, row_bytes, chunk * 96);
    uint64_t more = stream_bits(codes, row_bytes, chunk * 96 + 60);
    const uint32_t ten = 0x3FFFFFFF, middles = 0x24924924, middles_last = 0x24;
    uint32_t last_two = ((uint32_t)(more >> 30) & 0x3F) ^ middles_last;
    words[0] = (((uint32_t)bits & ten) ^ middles) | last_two << 30;
    words[1] = (((uint32_t)(bits >> 30) & ten) ^ middles) | (last_two >> 2) << 30;
    words[2] = (((uint32_t)more & ten) ^ middles) | (last_two >> 4) << 30;
}

/* The top bit of every field: flipping it turns a code into a signed field around its middle. */
static uint32_t middle_bits(int bits) { return bits == 2 ? 0xAAAAAAAA : bits == 4 ? 0x88888888 : 0x80808080; }

void qs_panels_fill(const qs_panels *panels, const qs_packed *packed, int64_t first, int64_t last)
{
    int64_t n_words = qs_panel_chunk_words(panels->bits), n_groups = panels->n_groups;
    for (int64_t p = first; p < last; p++) {
        uint32_t *dst = panels->codes + p * panels->n_chunks * n_words * QS_PANEL_ROWS;
        for (int64_t lane = 0; lane < QS_PANEL_ROWS; lane++) {
            int64_t row = p * QS_PANEL_ROWS + lane;
            bool real = row < packed->n_out;
            const uint8_t *codes = packed->codes + (real ? row * packed->row_bytes : 0);
            for (int64_t c = 0; c < panels->n_chunks; c++) {
                uint32_t words[3] = {0, 0, 0};
                if (real && panels->bits == 3)
                    chunk_words_3(codes, packed->row_bytes, c, words);
                else if (real)
                    words[0] = (uint32_t)stream_bits(codes, packed->row_bytes, c * 32) ^ middle_bits(panels->bits);
                for (int64_t w = 0; w < n_words; w++) dst[(c * n_words + w) * QS_PANEL_ROWS + lane] = words[w];
            }
            for (int64_t g = 0; g < n_groups; g++) {
                int64_t to = (p * n_groups + g) * QS_PANEL_ROWS + lane;
                panels->scales[to] = real ? packed->scales[row * n_groups + g] : 0;
                if (panels->zeros != NULL) panels->zeros[to] = real ? packed->zeros[row * n_groups + g] : 0;
            }
        }
    }
}

void qs_panels_fill_row(const qs_panels *panels, int64_t row, const uint8_t *codes)
{
    int64_t columns = qs_panel_chunk_columns(panels->bits), n_words = qs_panel_chunk_words(panels->bits);
    uint32_t *dst = panels->codes + row / QS_PANEL_ROWS * panels->n_chunks * n_words * QS_PANEL_ROWS +
                    row % QS_PANEL_ROWS;
    uint32_t middle = 1u << (panels->bits - 1);
    for (int64_t c = 0; c < panels->n_chunks; c++, codes += columns) {
        uint32_t words[3] = {0, 0, 0}, last_two = 0;
        int64_t n = panels->n_in - c * columns < columns ? panels->n_in - c * columns : columns;
        for (int64_t k = 0; k < n; k++) {
            uint32_t field = codes[k] ^ middle;
            if (panels->bits != 3)
                words[0] |= field << (k * panels->bits);
            else if (k < 30)
                words[k / 10] |= field << (k % 10 * 3);
            else
                last_two |= field << (k == 30 ? 0 : 3);
        }
        for (int64_t w = 0; w < n_words; w++)
            dst[(c * n_words + w) * QS_PANEL_ROWS] = words[w] | (last_two >> (2 * w) & 3) << 30;
    }
}
