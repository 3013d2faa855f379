/* Placement (G6, G11): the bytes of a real shape by hand, and what goes where as the budget shrinks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

#include "model/block.h"
#include "model/placement.h"

static const qs_model_config tiny_llama = {
    .architecture = "llama", .n_layers = 30, .n_vocab = 49152, .d_model = 576, .d_ff = 1536, .n_heads = 9,
    .n_kv_heads = 3, .head_dim = 64, .n_ctx_max = 8192, .norm_eps = 1e-5, .tied_head = true, .rope_theta = 1e5,
};
static const qs_placement_request request = {
    .linear_bits = 4.5, .dense_bits = 16, .batch = 2, .n_ctx = 1024, .device_bytes = 0, .host_bytes = (size_t)1 << 34,
};

static void test_bytes(void **state)
{
    (void)state;
    qs_placement p;
    qs_placement_plan(&p, &tiny_llama, &request);
    /* q, o: 576 x 576; k, v: 192 x 576; gate, up, down: 1536 x 576 = 3,538,944 weights at 4.5 bits. */
    assert_int_equal(p.block_bytes, 3538944 * 9 / 16 + 2 * 576 * 4);
    assert_int_equal(p.host_block_bytes, p.block_bytes);
    assert_int_equal(p.kv_bytes, 2 * 2 * 1024 * 192 * 4);
    assert_int_equal(p.head_bytes, 49152 * 576 * 2 + 576 * 4);
    assert_int_equal(p.embed_bytes, 0);
    assert_int_equal(p.staging_bytes, 1536 * 576 * 4);
    assert_int_equal(p.scratch_bytes, qs_scratch_bytes(&tiny_llama, 1024) + 64 + 1024 * 576 * 4); /* two positions */
    assert_int_equal(p.logits_bytes, 2 * 49152 * 4);
    assert_int_equal(p.kind, QS_PLACE_HOST);
    assert_int_equal(p.device_bytes, 0);
    assert_int_equal(p.host_bytes, 30 * (p.block_bytes + p.kv_bytes) + p.head_bytes + p.logits_bytes + p.scratch_bytes);

    qs_model_config qwen = tiny_llama;
    qwen.qkv_bias = qwen.o_bias = qwen.qk_norm = true;
    qwen.tied_head = false;
    qs_placement q;
    qs_placement_plan(&q, &qwen, &request);
    assert_int_equal(q.block_bytes - p.block_bytes, (576 + 2 * 192 + 576 + 2 * 64) * 4);
    assert_int_equal(q.embed_bytes, 49152 * 576 * 2);
}

/* Scratch grows with rows up to a constant part per MLP, never shrinks. */
static void test_scratch(void **state)
{
    (void)state;
    size_t last = 0;
    for (int64_t n = 1; n <= 4096; n *= 2) {
        size_t bytes = qs_scratch_bytes(&tiny_llama, n);
        assert_true(bytes > last);
        last = bytes;
    }
    /* 4096 rows: x, q, attended of 576, k, v of 192, a position, and 32 rotary frequencies. */
    assert_int_equal(last, 4096 * (3 * 576 + 2 * 192 + 1) * 4 + 32 * 4);
}

/* A budget of exactly the whole model takes it; each byte less moves layers to the host, in order. */
static void test_split(void **state)
{
    (void)state;
    qs_placement whole, p;
    qs_placement_request r = request;
    r.device_bytes = (size_t)1 << 34;
    qs_placement_plan(&whole, &tiny_llama, &r);
    assert_int_equal(whole.kind, QS_PLACE_DEVICE);
    assert_int_equal(whole.n_device_layers, 30);
    assert_int_equal(whole.host_bytes, 0);

    r.device_bytes = whole.device_bytes;
    qs_placement_plan(&p, &tiny_llama, &r);
    assert_int_equal(p.kind, QS_PLACE_DEVICE);
    r.device_bytes = whole.device_bytes - 1;
    qs_placement_plan(&p, &tiny_llama, &r);
    assert_int_equal(p.kind, QS_PLACE_SPLIT);
    assert_int_equal(p.n_device_layers, 29); /* the head went first */

    int64_t last = 29;
    for (; r.device_bytes > 1000000; r.device_bytes -= 1000000) {
        qs_placement_plan(&p, &tiny_llama, &r);
        assert_true(p.n_device_layers <= last);
        assert_true(p.device_bytes <= r.device_bytes);
        assert_int_equal(p.kind, p.n_device_layers > 0 ? QS_PLACE_SPLIT : QS_PLACE_HOST);
        /* Greedy to the brim: one layer more would not have fitted. */
        size_t layer = p.block_bytes + p.kv_bytes;
        size_t with_one_more = p.scratch_bytes + ((size_t)p.n_device_layers + 1) * layer;
        if (p.n_device_layers < 29) assert_true(with_one_more > r.device_bytes);
        assert_int_equal(p.host_bytes,
                         (30 - (size_t)p.n_device_layers) * layer + p.head_bytes + p.logits_bytes + p.scratch_bytes);
        last = p.n_device_layers;
    }
    assert_int_equal(last, 0);
}

/* Too little on both sides: streamed, and at last refused. */
static void test_stream(void **state)
{
    (void)state;
    qs_placement p;
    qs_placement_request r = request;
    qs_placement_plan(&p, &tiny_llama, &r);
    r.host_bytes = p.host_bytes - 1;
    qs_placement_plan(&p, &tiny_llama, &r);
    assert_int_equal(p.kind, QS_PLACE_STREAM);
    assert_int_equal(p.host_bytes, p.block_bytes + p.staging_bytes + p.scratch_bytes + p.head_bytes + p.logits_bytes);
    r.host_bytes = p.host_bytes - 1;
    qs_placement_plan(&p, &tiny_llama, &r);
    assert_int_equal(p.kind, QS_PLACE_NONE);
    assert_string_equal(qs_placement_name(p.kind), "none");
}

/* What a backend says that it will keep counts instead of bits: each layer its own, scratch, and more of it with the
 * head; another backend's on the host; layers from the first that is not placed yet. */
static void test_weights(void **state)
{
    (void)state;
    enum { N = 30 };
    size_t device[N], host[N], placed = 0;
    for (int i = 0; i < N; i++) device[i] = 1000000 + 5000 * (size_t)i, host[i] = 2000000 + (size_t)i;
    const qs_placement_weights on_device = {.layers = device, .head = 7000000, .workspace = 300000,
                                            .head_workspace = 41},
                               on_host = {.layers = host, .head = 9000000};
    qs_placement bits, p;
    qs_placement_request r = request;
    r.device_bytes = (size_t)1 << 34;
    qs_placement_plan(&bits, &tiny_llama, &r);
    assert_int_equal(bits.workspace_bytes + bits.head_workspace_bytes, 0);
    r.device = &on_device;
    r.host = &on_host;
    r.n_more_logits = 2;
    qs_placement_plan(&p, &tiny_llama, &r);
    assert_int_equal(p.kind, QS_PLACE_DEVICE);
    size_t vectors = 2 * 576 * 4, layer = vectors + p.kv_bytes, all = p.scratch_bytes + 300000;
    for (int i = 0; i < N; i++) all += device[i] + layer;
    assert_int_equal(p.logits_bytes, 3 * bits.logits_bytes);
    assert_int_equal(p.device_bytes, all + 7000000 + 576 * 4 + 41 + p.logits_bytes);
    for (size_t less = 0; less < 2; less++) {
        r.device_bytes = p.device_bytes - less;
        qs_placement one_less;
        qs_placement_plan(&one_less, &tiny_llama, &r);
        assert_int_equal(one_less.n_device_layers, N - (int64_t)less);
        if (less == 0) continue;
        assert_int_equal(one_less.device_bytes, all - device[N - 1] - layer);
        assert_int_equal(one_less.host_bytes,
                         host[N - 1] + layer + 9000000 + 576 * 4 + p.scratch_bytes + p.logits_bytes);
    }
    /* Two devices of eight layers each, the second one's from the ninth on. */
    qs_model_config left = tiny_llama;
    const qs_device_map map = {.fixed = true, .n_devices = 2, .layers = {8, 8}, .n_layers = 16};
    for (int i = 0; i < 2; i++, placed += 8) {
        r.first_layer = (int64_t)placed;
        left.n_layers = N - (int64_t)placed;
        size_t sum = p.scratch_bytes + 300000;
        for (size_t k = placed; k < placed + 8; k++) sum += device[k] + layer;
        qs_placement two;
        qs_placement_take(&two, &left, &r, &map, i, N);
        assert_int_equal(two.device_bytes, sum);
    }
}

/* Device after device takes what fits or what the map gives it; the head goes with the last layers. */
static void test_devices(void **state)
{
    (void)state;
    qs_device_map map = {0};
    qs_placement p;
    qs_placement_request r = request;
    qs_model_config left = tiny_llama;
    int64_t taken[4];
    qs_placement_fix(&p, &left, &r, 0);
    size_t layer = p.block_bytes + p.kv_bytes;
    r.device_bytes = p.scratch_bytes + 12 * layer + layer / 2;
    r.host_bytes = 1; /* does not count */
    for (int i = 0; i < 4 && left.n_layers > 0; i++) {
        qs_placement_take(&p, &left, &r, &map, i, left.n_layers);
        assert_true(p.device_bytes <= r.device_bytes);
        taken[i] = p.n_device_layers;
        left.n_layers -= taken[i];
    }
    assert_int_equal(taken[0], 12);
    assert_int_equal(taken[1], 12);
    /* The head is as large as eleven of these layers: the last six find no room beside it, and the last one does. */
    assert_int_equal(taken[2], 5);
    assert_int_equal(taken[3], 1);
    assert_int_equal(left.n_layers, 0);
    left = tiny_llama;
    qs_placement_take(&p, &left, &r, &map, 0, 7);
    assert_int_equal(p.n_device_layers, 7);

    assert_int_equal(qs_device_map_parse(&map, "20:layers,0:layers,10:layers", "1M"), QS_OK);
    assert_true(map.fixed && map.n_devices == 3 && map.n_layers == 30 && map.budget_bytes == 1 << 20);
    assert_int_equal(qs_device_map_layers(&map, 2), 10);
    assert_int_equal(qs_device_map_layers(&map, 3), 0);
    qs_placement_take(&p, &left, &r, &map, 0, left.n_layers);
    assert_int_equal(p.n_device_layers, 20);
    assert_int_equal(qs_device_map_parse(&map, "20:layers", NULL), QS_OK);
    assert_int_equal(qs_device_map_layers(&map, 0), 20);
    static const char *const bad[] = {
        "20:layers,", ",", "1:layers,2", "1:layers;2:layers", "-1:layers", "1:layers,auto",
        "1:layers,1:layers,1:layers,1:layers,1:layers,1:layers,1:layers,1:layers,1:layers"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(qs_device_map_parse(&map, bad[i], NULL), QS_E_USAGE);
}

/* A fixed number of layers is kept; what fits instead is named. */
static void test_fixed(void **state)
{
    (void)state;
    char text[QS_PLACEMENT_TEXT_BYTES];
    qs_placement p, most;
    qs_placement_request r = request;
    r.device_bytes = 100000000;
    qs_placement_plan(&most, &tiny_llama, &r);
    for (int64_t n = 0; n <= 30; n++) {
        qs_placement_fix(&p, &tiny_llama, &r, n);
        assert_int_equal(p.n_device_layers, n);
        assert_int_equal(p.kind, n == 30 ? QS_PLACE_DEVICE : n > 0 ? QS_PLACE_SPLIT : QS_PLACE_HOST);
        assert_int_equal(qs_placement_fits(&p, &r), n <= most.n_device_layers);
    }
    qs_placement_fix(&p, &tiny_llama, &r, 20);
    assert_non_null(strstr(qs_placement_format(text, &p), "20 of 30 layers on the device"));
    assert_int_equal(qs_placement_context(QS_OK, &tiny_llama, &r, 30), QS_OK);
    qs_err err = qs_placement_context(qs_fail(QS_E_RESOURCE, "too large"), &tiny_llama, &r, 30);
    assert_int_equal(err, QS_E_RESOURCE);
    print_message("%s\n", qs_error_text());
    char map[32];
    (void)snprintf(map, sizeof map, "--device-map %d:layers", (int)most.n_device_layers);
    assert_non_null(strstr(qs_error_text(), map));
    /* What failed although it should have fitted is not proposed again. */
    err = qs_placement_context(qs_fail(QS_E_RESOURCE, "too large"), &tiny_llama, &r, most.n_device_layers);
    assert_int_equal(err, QS_E_RESOURCE);
    (void)snprintf(map, sizeof map, "--device-map %d:layers", (int)most.n_device_layers - 1);
    assert_non_null(strstr(qs_error_text(), map));
}

static void test_maps(void **state)
{
    (void)state;
    static const struct {
        const char *map, *budget;
        qs_device_map expected;
    } good[] = {
        {"auto", NULL, {0}},
        {"cpu", NULL, {.fixed = true}},
        {"12:layers", NULL, {.fixed = true, .n_layers = 12}},
        {"0:layers", "1000", {.fixed = true, .budget_bytes = 1000}},
        {"auto", "4G", {.budget_bytes = (size_t)4 << 30}},
        {"auto", "1.5M", {.budget_bytes = 3 << 19}},
    };
    static const char *const bad[][2] = {
        {"gpu", NULL}, {"", NULL}, {"12", NULL}, {"-1:layers", NULL}, {"12:layers ", NULL}, {":layers", NULL},
        {"auto", ""}, {"auto", "4X"}, {"auto", "-4G"}, {"auto", "4GB"}, {"auto", "0"}, {"auto", "nan"},
    };
    qs_device_map map;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(qs_device_map_parse(&map, good[i].map, good[i].budget), QS_OK);
        assert_int_equal(map.fixed, good[i].expected.fixed);
        assert_int_equal(map.n_layers, good[i].expected.n_layers);
        assert_int_equal(map.budget_bytes, good[i].expected.budget_bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(qs_device_map_parse(&map, bad[i][0], bad[i][1]), QS_E_USAGE);
}

static void test_print(void **state)
{
    (void)state;
    char *text = NULL;
    size_t bytes = 0;
    qs_placement p;
    qs_placement_request r = request;
    r.device_bytes = 100000000;
    qs_placement_plan(&p, &tiny_llama, &r);
    FILE *stream = open_memstream(&text, &bytes);
    assert_non_null(stream);
    qs_placement_print(&p, &r, stream);
    assert_int_equal(fclose(stream), 0);
    print_message("%s", text);
    assert_non_null(strstr(text, "placement: split"));
    assert_non_null(strstr(text, "device and host"));
    free(text);

    /* The parts add up to the sums: what is on both sides counts on both. */
    qs_placement_part parts[QS_PLACEMENT_PARTS_MAX];
    size_t device = 0, host = 0;
    int n = qs_placement_parts(parts, &p);
    for (int i = 0; i < n; i++) {
        size_t all = (size_t)parts[i].n * parts[i].bytes;
        if (strstr(parts[i].where, "device") != NULL) device += all;
        if (strstr(parts[i].where, "host") != NULL) host += all;
    }
    assert_int_equal(device, p.device_bytes);
    assert_int_equal(host, p.host_bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),  cmocka_unit_test(test_scratch), cmocka_unit_test(test_split),
        cmocka_unit_test(test_stream), cmocka_unit_test(test_print),   cmocka_unit_test(test_weights),
        cmocka_unit_test(test_devices), cmocka_unit_test(test_fixed),  cmocka_unit_test(test_maps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
