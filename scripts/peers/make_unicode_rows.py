#!/usr/bin/env python3
"""Writes pipeline/model/unicode_rows.c, where the Unicode data of `tokenizers` and of the system's libraries
differ: the code points that the peer's regex engine knows and PCRE2 does not, with their general categories,
and those that utf8proc normalises and the peer's (older) tables do not. Run again when one of them moves to
another Unicode version.

    make_unicode_rows.py > pipeline/model/unicode_rows.c
"""
import ctypes
import ctypes.util

from tokenizers import Regex, normalizers, pre_tokenizers

CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co").split()
CODES = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
PCRE2_UTF, PCRE2_UCP, PCRE2_ANCHORED = 0x00080000, 0x00020000, 0x80000000


def peer_categories():
    """code -> category according to `tokenizers`."""
    text = "".join(map(chr, CODES))
    found = {}
    for category in CATEGORIES:
        split = pre_tokenizers.Split(Regex(r"\p{%s}" % category), "removed", invert=True)
        for at in range(0, len(text), 65536):
            for piece, _ in split.pre_tokenize_str(text[at:at + 65536]):
                found.update((ord(char), category) for char in piece)
    return found


def system_assigned():
    """Code points that the system's PCRE2 does not call unassigned."""
    pcre2 = ctypes.CDLL(ctypes.util.find_library("pcre2-8") or "libpcre2-8.so.0")
    for name in ("pcre2_compile_8", "pcre2_match_data_create_8"):
        getattr(pcre2, name).restype = ctypes.c_void_p
    error, offset = ctypes.c_int(), ctypes.c_size_t()
    code = ctypes.c_void_p(pcre2.pcre2_compile_8(rb"\p{Cn}", ctypes.c_size_t(6), PCRE2_UTF | PCRE2_UCP,
                                                 ctypes.byref(error), ctypes.byref(offset), None))
    data = ctypes.c_void_p(pcre2.pcre2_match_data_create_8(2, None))
    assigned = set()
    for point in CODES:
        text = chr(point).encode()
        if pcre2.pcre2_match_8(code, text, ctypes.c_size_t(len(text)), ctypes.c_size_t(0),
                               ctypes.c_uint32(PCRE2_ANCHORED), data, None) < 0:
            assigned.add(point)
    return assigned


def inert():
    """Code points to which the peer gives neither a decomposition nor a combining class, though utf8proc does."""
    utf8proc, libc = ctypes.CDLL(ctypes.util.find_library("utf8proc") or "libutf8proc.so.2"), ctypes.CDLL(None)
    utf8proc.utf8proc_map.restype = ctypes.c_ssize_t
    stable, compat, compose, decompose = 2, 4, 8, 16
    forms = [(normalizers.NFC(), stable | compose), (normalizers.NFD(), stable | decompose),
             (normalizers.NFKC(), stable | compose | compat), (normalizers.NFKD(), stable | decompose | compat)]

    def system(text, options):
        data, out = text.encode(), ctypes.c_void_p()
        n_bytes = utf8proc.utf8proc_map(data, ctypes.c_ssize_t(len(data)), ctypes.byref(out), options)
        result = ctypes.string_at(out, n_bytes).decode()
        libc.free(out)
        return result

    # Between marks of the lowest and of the highest class a mark of any class moves in one of the two texts.
    # U+11930 composes with U+11935 since Unicode 13, which no text of one code point shows.
    found = {0x11930}
    for code in CODES[1:]:
        texts = (chr(code), "a" + chr(code) + "\u0334", "a\u0345" + chr(code))
        if any(peer.normalize_str(text) != system(text, options) for peer, options in forms for text in texts):
            found.add(code)
    return found


def write_table(declaration, rows, form, per_line):
    print("const %s[] = {" % declaration)
    for at in range(0, len(rows), per_line):
        print("    " + " ".join(form % tuple(row) for row in rows[at:at + per_line]))
    print("};\n")


def main():
    assigned = system_assigned()
    rows = []
    for code, category in sorted(peer_categories().items()):
        if code in assigned:
            continue
        if rows and rows[-1][1] == code - 1 and rows[-1][2] == category:
            rows[-1][1] = code
        else:
            rows.append([code, code, category])
    print("/* Written by scripts/peers/make_unicode_rows.py. */\n#include \"model/unicode.h\"\n")
    write_table("qs_unicode_row qs_unicode_rows", rows, '{0x%05X, 0x%05X, "%s"},', 3)
    print("const int qs_n_unicode_rows = sizeof qs_unicode_rows / sizeof *qs_unicode_rows;\n")
    ranges = []
    for code in sorted(inert()):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    write_table("qs_unicode_range qs_unicode_inert", ranges, "{0x%05X, 0x%05X},", 4)
    print("const int qs_n_unicode_inert = sizeof qs_unicode_inert / sizeof *qs_unicode_inert;")


if __name__ == "__main__":
    main()
