#include "export/gguf_mixture.h"

#include <stdio.h>
#include <string.h>

/* ---- places ---- */

static bool in_first_two(int64_t layer, int64_t n_layers)
{
    (void)n_layers;
    return layer < 2;
}

static bool in_first_four(int64_t layer, int64_t n_layers)
{
    (void)n_layers;
    return layer < 4;
}

static bool in_first_sixteenth(int64_t layer, int64_t n_layers) { return layer < n_layers / 16; }
static bool in_first_eighth(int64_t layer, int64_t n_layers) { return layer < n_layers / 8; }

static bool in_ends_and_thirds(int64_t layer, int64_t n_layers)
{
    int64_t eighth = n_layers / 8;
    return layer < eighth || layer >= 7 * n_layers / 8 || (layer - eighth) % 3 == 2;
}

static const qs_gguf_place first_two = {"the first two", in_first_two};
static const qs_gguf_place first_four = {"the first four", in_first_four};
static const qs_gguf_place first_sixteenth = {"the first sixteenth", in_first_sixteenth};
static const qs_gguf_place first_eighth = {"the first eighth", in_first_eighth};
static const qs_gguf_place ends_and_thirds = {"the first and last eighth, and every third between", in_ends_and_thirds};

/* ---- the mixtures ---- */

/* q2_k, iq4_xs and iq4_nl are single types already, so that llama.cpp's mixtures of these names have others here. */
const qs_gguf_mixture qs_gguf_mixtures[] = {
    {.name = "q2_k_m", .peer = "Q2_K", .file_type = 10, .rest = "q2_k", .head = "q6_k", .v_shared = "q4_k",
     .v = {.rest = "q3_k"}, .o = {.rest = "q3_k"}, .down = {.rest = "q3_k"}},
    {.name = "iq4_xs_m", .peer = "IQ4_XS", .file_type = 30, .rest = "iq4_xs", .head = "q6_k", .v_shared = "q5_k",
     .down = {NULL, &first_eighth, "q5_k"}},
    {.name = "iq4_nl_m", .peer = "IQ4_NL", .file_type = 25, .rest = "iq4_nl", .head = "q6_k", .v_shared = "q5_k",
     .down = {NULL, &first_eighth, "q5_k"}},
    {.name = "q3_k_s", .peer = "Q3_K_S", .file_type = 11, .rest = "q3_k", .head = "q6_k"},
    {.name = "q3_k_m", .peer = "Q3_K_M", .file_type = 12, .rest = "q3_k", .head = "q6_k",
     .v = {"q4_k", &first_two, "q5_k"}, .o = {.rest = "q4_k"}, .down = {"q4_k", &first_sixteenth, "q5_k"}},
    {.name = "q3_k_l", .peer = "Q3_K_L", .file_type = 13, .rest = "q3_k", .head = "q6_k",
     .v = {.rest = "q5_k"}, .o = {.rest = "q5_k"}, .down = {.rest = "q5_k"}},
    {.name = "q4_k_s", .peer = "Q4_K_S", .file_type = 14, .rest = "q4_k", .head = "q6_k",
     .v = {NULL, &first_four, "q5_k"}, .down = {NULL, &first_eighth, "q5_k"}},
    {.name = "q4_k_m", .peer = "Q4_K_M", .file_type = 15, .rest = "q4_k", .head = "q6_k",
     .v = {NULL, &ends_and_thirds, "q6_k"}, .down = {NULL, &ends_and_thirds, "q6_k"}},
    {.name = "q5_k_s", .peer = "Q5_K_S", .file_type = 16, .rest = "q5_k", .head = "q6_k"},
    {.name = "q5_k_m", .peer = "Q5_K_M", .file_type = 17, .rest = "q5_k", .head = "q6_k",
     .v = {NULL, &ends_and_thirds, "q6_k"}, .down = {NULL, &ends_and_thirds, "q6_k"}},
    {.name = NULL},
};

const qs_gguf_mixture *qs_gguf_mixture_find(const char *name)
{
    for (const qs_gguf_mixture *m = qs_gguf_mixtures; m->name != NULL; m++)
        if (strcmp(m->name, name) == 0) return m;
    return NULL;
}

static size_t add_choice(char *text, size_t used, const char *what, const qs_gguf_choice *c)
{
    size_t room = QS_GGUF_MIXTURE_TEXT_BYTES - used;
    int n = 0;
    if (c->rest == NULL && c->place == NULL) return used;
    if (c->place == NULL) n = snprintf(text + used, room, "; %s %s", what, c->rest);
    else if (c->rest == NULL) n = snprintf(text + used, room, "; %s %s in %s", what, c->better, c->place->name);
    else n = snprintf(text + used, room, "; %s %s, %s in %s", what, c->rest, c->better, c->place->name);
    return used + (size_t)n < QS_GGUF_MIXTURE_TEXT_BYTES ? used + (size_t)n : QS_GGUF_MIXTURE_TEXT_BYTES - 1;
}

const char *qs_gguf_mixture_text(char text[QS_GGUF_MIXTURE_TEXT_BYTES], const qs_gguf_mixture *m)
{
    size_t used = (size_t)snprintf(text, QS_GGUF_MIXTURE_TEXT_BYTES, "%s: %s; head %s", m->peer, m->rest, m->head);
    used = add_choice(text, used, "v", &m->v);
    if (m->v_shared != NULL)
        used = add_choice(text, used, "v that four or more heads share", &(qs_gguf_choice){.rest = m->v_shared});
    used = add_choice(text, used, "o", &m->o);
    (void)add_choice(text, used, "down", &m->down);
    return text;
}

/* ---- the rules ---- */

/* What llama.cpp takes for a model of 70 billion weights, by its layers: v has so few rows there that more bits of it
 * cost nothing. Of architecture qwen2 it does not ask whether heads share. */
static bool is_70b(const qs_model_config *c)
{
    if (c->n_layers != 80 || strcmp(c->architecture, "qwen3") == 0) return false;
    return strcmp(c->architecture, "qwen2") == 0 || c->n_heads != c->n_kv_heads;
}

static const char *choose(const qs_gguf_choice *choice, const char *rest, int64_t layer, int64_t n_layers)
{
    if (choice->place != NULL && choice->place->holds(layer, n_layers)) return choice->better;
    return choice->rest != NULL ? choice->rest : rest;
}

static const char *choose_v(const qs_gguf_mixture *m, const qs_model_config *c, int64_t layer)
{
    bool shared = m->v_shared != NULL && c->n_heads / c->n_kv_heads >= 4;
    const char *name = shared ? m->v_shared : choose(&m->v, m->rest, layer, c->n_layers);
    bool few = strcmp(name, "q3_k") == 0 || strcmp(name, "q4_k") == 0;
    return few && is_70b(c) ? "q5_k" : name;
}

const qs_gguf_kind *qs_gguf_mixture_kind(const qs_gguf_mixture *m, const qs_model_config *c, qs_role role,
                                         int64_t layer, int64_t n_in)
{
    const char *name = m->rest;
    if (role == QS_ROLE_V) name = choose_v(m, c, layer);
    if (role == QS_ROLE_O) name = choose(&m->o, m->rest, layer, c->n_layers);
    if (role == QS_ROLE_DOWN) name = choose(&m->down, m->rest, layer, c->n_layers);
    if (role == QS_ROLE_HEAD || (role == QS_ROLE_EMBED && c->tied_head)) name = m->head;
    return qs_gguf_kind_for_row(qs_gguf_kind_named(name), n_in);
}
