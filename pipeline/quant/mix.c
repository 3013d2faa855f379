#include "quant/mix.h"

#define MIX(text, ...) {text, {__VA_ARGS__}}

const qs_mix qs_mixes[] = {
    MIX("0.05:3b64 0.95:2b64", {5, 3, 64}, {95, 2, 64}),
    MIX("0.25:3b64 0.75:2b64", {25, 3, 64}, {75, 2, 64}),
    MIX("0.05:5b32 0.3:3b64 0.65:2b64", {5, 5, 32}, {30, 3, 64}, {65, 2, 64}),
    MIX("0.5:3b64 0.5:2b64", {50, 3, 64}, {50, 2, 64}),
    MIX("0.1:4b128 0.9:3b128", {10, 4, 128}, {90, 3, 128}),
    MIX("0.25:4b64 0.75:3b64", {25, 4, 64}, {75, 3, 64}),
    MIX("0.05:6b32 0.2:4b32 0.75:3b32", {5, 6, 32}, {20, 4, 32}, {75, 3, 32}),
    MIX("0.5:4b64 0.5:3b64", {50, 4, 64}, {50, 3, 64}),
    MIX("1:4b128", {100, 4, 128}),
    MIX("1:4b32", {100, 4, 32}),
    MIX("0.1:5b64 0.9:4b64", {10, 5, 64}, {90, 4, 64}),
    MIX("0.05:8b32 0.2:5b32 0.75:4b32", {5, 8, 32}, {20, 5, 32}, {75, 4, 32}),
    MIX("0.5:5b64 0.5:4b64", {50, 5, 64}, {50, 4, 64}),
    MIX("1:5b64", {100, 5, 64}),
    MIX("0.25:6b64 0.75:5b64", {25, 6, 64}, {75, 5, 64}),
    MIX("1:6b64", {100, 6, 64}),
    MIX("0.25:8b64 0.75:6b64", {25, 8, 64}, {75, 6, 64}),
    MIX("1:8b64", {100, 8, 64}),
};
const int64_t qs_n_mixes = sizeof qs_mixes / sizeof *qs_mixes;

const qs_mix qs_head_mixes[QS_EXL2_BITS_MAX + 1] = {
    [2] = MIX("0.3:4b32 0.7:2b32", {30, 4, 32}, {70, 2, 32}),
    [3] = MIX("0.15:4b32 0.85:3b32", {15, 4, 32}, {85, 3, 32}),
    [4] = MIX("0.15:6b32 0.85:4b32", {15, 6, 32}, {85, 4, 32}),
    [5] = MIX("0.15:6b128 0.85:5b128", {15, 6, 128}, {85, 5, 128}),
    [6] = MIX("0.15:8b128 0.85:6b128", {15, 8, 128}, {85, 6, 128}),
    [8] = MIX("1:8b128", {100, 8, 128}),
};

int64_t qs_mix_groups(const qs_mix *mix, int64_t n_in, qs_packed_group *groups)
{
    int64_t n = 0, at = 0;
    for (int s = 0; s < QS_MIX_SHARES_MAX && mix->shares[s].percent > 0; s++) {
        int64_t size = mix->shares[s].group;
        bool last = s + 1 == QS_MIX_SHARES_MAX || mix->shares[s + 1].percent == 0;
        int64_t columns = (n_in * mix->shares[s].percent + 99) / 100;
        int64_t end = last ? n_in : at + (columns + size - 1) / size * size;
        for (end = end < n_in ? end : n_in; at < end; at += size)
            groups[n++] = (qs_packed_group){.first = (int32_t)at, .bits = mix->shares[s].bits};
        at = at < n_in ? at : n_in;
    }
    return n;
}
