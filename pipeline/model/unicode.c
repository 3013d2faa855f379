#include "model/unicode.h"

#include <string.h>
#include <utf8proc.h>

size_t qs_utf8_decode(const char *text, size_t bytes, uint32_t *code)
{
    if (bytes == 0) return 0;
    unsigned char first = (unsigned char)text[0];
    if (first < 0x80) {
        *code = first;
        return 1;
    }
    utf8proc_int32_t value;
    utf8proc_ssize_t length =
        utf8proc_iterate((const utf8proc_uint8_t *)text, bytes > 4 ? 4 : (utf8proc_ssize_t)bytes, &value);
    if (length <= 0) return 0;
    *code = (uint32_t)value;
    return (size_t)length;
}

size_t qs_utf8_length(const char *text)
{
    unsigned char first = (unsigned char)text[0];
    return first < 0x80 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
}

size_t qs_utf8_encode(uint32_t code, char out[4])
{
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)code, (utf8proc_uint8_t *)out);
}

size_t qs_utf8_valid_prefix(const char *text, size_t bytes)
{
    const uint64_t high_bits = 0x8080808080808080u;
    size_t at = 0;
    while (at < bytes) {
        uint64_t word;
        if (bytes - at >= sizeof word) {
            memcpy(&word, text + at, sizeof word);
            if ((word & high_bits) == 0) {
                at += sizeof word;
                continue;
            }
        }
        uint32_t code;
        size_t length = qs_utf8_decode(text + at, bytes - at, &code);
        if (length == 0) break;
        at += length;
    }
    return at;
}

const char *qs_unicode_category(uint32_t code)
{
    if (utf8proc_category((utf8proc_int32_t)code) != UTF8PROC_CATEGORY_CN)
        return utf8proc_category_string((utf8proc_int32_t)code);
    int low = 0, high = qs_n_unicode_rows;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (code > qs_unicode_rows[middle].last) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low < qs_n_unicode_rows && code >= qs_unicode_rows[low].first) return qs_unicode_rows[low].category;
    return "Cn";
}

bool qs_unicode_is_inert(uint32_t code)
{
    int low = 0, high = qs_n_unicode_inert;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (code > qs_unicode_inert[middle].last) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < qs_n_unicode_inert && code >= qs_unicode_inert[low].first;
}

bool qs_unicode_is_space(uint32_t code)
{
    if (code < 0x80) return code == ' ' || (code >= '\t' && code <= '\r');
    return code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) ||
           code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

bool qs_unicode_is_numeric(uint32_t code)
{
    if (code < 0x80) return code >= '0' && code <= '9';
    /* Two blocks of Unicode 17, which the library's own table of numeric characters knows. */
    if ((code >= 0x11DE0 && code <= 0x11DE9) || (code >= 0x16FF4 && code <= 0x16FF6)) return true;
    return qs_unicode_category(code)[0] == 'N';
}

bool qs_unicode_is_word(uint32_t code)
{
    if (code == 0x200C || code == 0x200D) return true;
    /* The alphabetic characters outside L, M and Nl are circled and squared Latin letters. */
    if ((code >= 0x24B6 && code <= 0x24E9) || (code >= 0x1F130 && code <= 0x1F149) ||
        (code >= 0x1F150 && code <= 0x1F169) || (code >= 0x1F170 && code <= 0x1F189))
        return true;
    const char *category = qs_unicode_category(code);
    return category[0] == 'L' || category[0] == 'M' || strcmp(category, "Nd") == 0 ||
           strcmp(category, "Nl") == 0 || strcmp(category, "Pc") == 0;
}

static bool stands_for_itself(uint32_t byte)
{
    return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
}

uint32_t qs_alphabet_char(uint8_t byte)
{
    if (stands_for_itself(byte)) return byte;
    /* The 68 others are 0-32, 127-160 and 173. */
    if (byte <= 32) return 256u + byte;
    return byte <= 160 ? 256u + 33u + (byte - 127u) : 256u + 67u;
}

int qs_alphabet_byte(uint32_t code)
{
    if (code < 256) return stands_for_itself(code) ? (int)code : -1;
    if (code <= 256 + 32) return (int)code - 256;
    if (code <= 256 + 66) return (int)code - 256 - 33 + 127;
    return code == 256 + 67 ? 173 : -1;
}
