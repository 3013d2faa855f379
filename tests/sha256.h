/* SHA-256 (FIPS 180-4) of a small buffer, for tests that hold data against a published digest. */
#ifndef QS_TESTS_SHA256_H
#define QS_TESTS_SHA256_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { SHA256_TEXT_BYTES = 65, SHA256_BLOCK = 64, SHA256_ROUNDS = 64, SHA256_WORDS = 8 };

static inline uint32_t sha256_turn(uint32_t x, int n) { return x >> n | x << (32 - n); }

/* The first 32 bits behind the point of the n-th prime's cube or square root, by whole numbers. */
static inline uint32_t sha256_root(unsigned prime, int degree)
{
    unsigned __int128 low = 0, high = (unsigned __int128)1 << 36,
                      target = (unsigned __int128)prime << 32 * (unsigned)degree;
    while (high - low > 1) {
        unsigned __int128 mid = (low + high) / 2, power = degree == 2 ? mid * mid : mid * mid * mid;
        if (power <= target)
            low = mid;
        else
            high = mid;
    }
    return (uint32_t)low;
}

static inline unsigned sha256_next_prime(unsigned n)
{
    for (;;) {
        unsigned d = 2;
        n++;
        while (d * d <= n && n % d != 0) d++;
        if (d * d > n) return n;
    }
}

static inline void sha256_block(uint32_t h[SHA256_WORDS], const uint8_t *block)
{
    uint32_t w[SHA256_ROUNDS], s[SHA256_WORDS];
    unsigned prime = 1;
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < SHA256_ROUNDS; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (sha256_turn(a, 7) ^ sha256_turn(a, 18) ^ a >> 3) + w[i - 7] +
               (sha256_turn(b, 17) ^ sha256_turn(b, 19) ^ b >> 10);
    }
    memcpy(s, h, sizeof s);
    for (int i = 0; i < SHA256_ROUNDS; i++) {
        prime = sha256_next_prime(prime);
        uint32_t e = s[4], a = s[0];
        uint32_t t1 = s[7] + (sha256_turn(e, 6) ^ sha256_turn(e, 11) ^ sha256_turn(e, 25)) +
                      ((e & s[5]) ^ (~e & s[6])) + sha256_root(prime, 3) + w[i];
        uint32_t t2 = (sha256_turn(a, 2) ^ sha256_turn(a, 13) ^ sha256_turn(a, 22)) +
                      ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < SHA256_WORDS; i++) h[i] += s[i];
}

static inline const char *sha256_hex(const void *data, size_t bytes, char text[SHA256_TEXT_BYTES])
{
    uint32_t h[SHA256_WORDS];
    uint8_t tail[2 * SHA256_BLOCK] = {0};
    unsigned prime = 1;
    size_t whole = bytes / SHA256_BLOCK, rest = bytes % SHA256_BLOCK, n_tail = rest < 56 ? 1 : 2;
    for (int i = 0; i < SHA256_WORDS; i++) h[i] = sha256_root(prime = sha256_next_prime(prime), 2);
    for (size_t i = 0; i < whole; i++) sha256_block(h, (const uint8_t *)data + i * SHA256_BLOCK);
    memcpy(tail, (const uint8_t *)data + whole * SHA256_BLOCK, rest);
    tail[rest] = 0x80;
    for (size_t i = 0; i < 8; i++)
        tail[n_tail * SHA256_BLOCK - 1 - i] = (uint8_t)((uint64_t)bytes * 8 >> 8 * i);
    for (size_t i = 0; i < n_tail; i++) sha256_block(h, tail + i * SHA256_BLOCK);
    for (int i = 0; i < SHA256_WORDS; i++) (void)snprintf(text + 8 * i, 9, "%08x", h[i]);
    return text;
}

#endif
