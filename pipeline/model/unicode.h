/* UTF-8, the byte alphabet of byte-level BPE, and the Unicode properties that tokenizers ask for, at the
 * Unicode version that the `tokenizers` library uses (16.0; numeric characters 17.0), which is newer than
 * that of the C libraries here: unicode_rows.c holds the differences. */
#ifndef QS_MODEL_UNICODE_H
#define QS_MODEL_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the character at the start of text[0..bytes), 0 when it is not valid UTF-8 or bytes == 0. */
size_t qs_utf8_decode(const char *text, size_t bytes, uint32_t *code);
/* The same for text that is known to be valid and not empty. */
size_t qs_utf8_length(const char *text);
/* Writes at most 4 bytes, returns how many. */
size_t qs_utf8_encode(uint32_t code, char out[4]);
/* Length of the longest valid prefix: == bytes when all of it is valid. */
size_t qs_utf8_valid_prefix(const char *text, size_t bytes);

/* Two letters, "Lu", "Nd", ...; "Cn" for unassigned code points. */
const char *qs_unicode_category(uint32_t code);
bool qs_unicode_is_space(uint32_t code);   /* White_Space */
bool qs_unicode_is_numeric(uint32_t code); /* Nd, Nl, No */
bool qs_unicode_is_word(uint32_t code);    /* \w of UTS 18: alphabetic, marks, Nd, Pc, join controls */

/* Byte-level BPE writes each byte as one printable character (GPT-2): bytes 33-126, 161-172 and 174-255 as
 * themselves, the others in increasing order from U+0100. */
uint32_t qs_alphabet_char(uint8_t byte);
int qs_alphabet_byte(uint32_t code); /* -1 when the character is not in the alphabet */

/* Code points that Unicode assigned after 14.0 (PCRE2 10.42) up to 16.0, sorted. */
typedef struct qs_unicode_row {
    uint32_t first, last;
    char category[3];
} qs_unicode_row;
extern const qs_unicode_row qs_unicode_rows[];
extern const int qs_n_unicode_rows;

/* Code points that normal forms leave alone: the peer's tables are those of about Unicode 10, where they have
 * neither a decomposition nor a combining class. Sorted. */
typedef struct qs_unicode_range {
    uint32_t first, last;
} qs_unicode_range;
extern const qs_unicode_range qs_unicode_inert[];
extern const int qs_n_unicode_inert;
bool qs_unicode_is_inert(uint32_t code);

#endif
