#include "backend/clocks.h"

#include <ctype.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The few entries of libnvidia-ml.so.1 that are used; every one returns 0 when it worked. */
typedef struct nvml {
    void *library;
    int (*init)(void);
    int (*shutdown)(void);
    int (*by_index)(unsigned index, void **device);
    int (*by_uuid)(const char *uuid, void **device);
    int (*clock)(void *device, int type, unsigned *mhz);
    int (*max_clock)(void *device, int type, unsigned *mhz);
    int (*reasons)(void *device, unsigned long long *bits);
    int (*temperature)(void *device, int sensor, unsigned *celsius);
    int (*power)(void *device, unsigned *milliwatts);
} nvml;

enum { CLOCK_SM = 1, CLOCK_MEMORY = 2 };

/* Bits of the reasons; idling is none that a measurement would meet. */
static const struct {
    unsigned long long bit;
    const char *text;
} reasons[] = {
    {0x2, "application clocks"}, {0x4, "power cap"},       {0x8, "hardware slowdown"},
    {0x20, "thermal slowdown"},  {0x40, "hardware thermal slowdown"}, {0x80, "power brake"},
};

static bool nvml_open(nvml *n)
{
    const struct {
        void *entry;
        const char *name;
    } rows[] = {
        {&n->init, "nvmlInit_v2"},
        {&n->shutdown, "nvmlShutdown"},
        {&n->by_index, "nvmlDeviceGetHandleByIndex_v2"},
        {&n->by_uuid, "nvmlDeviceGetHandleByUUID"},
        {&n->clock, "nvmlDeviceGetClockInfo"},
        {&n->max_clock, "nvmlDeviceGetMaxClockInfo"},
        {&n->reasons, "nvmlDeviceGetCurrentClocksThrottleReasons"},
        {&n->temperature, "nvmlDeviceGetTemperature"},
        {&n->power, "nvmlDeviceGetPowerUsage"},
    };
    n->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    bool ok = n->library != NULL;
    for (size_t i = 0; ok && i < sizeof rows / sizeof *rows; i++) {
        void *entry = dlsym(n->library, rows[i].name);
        memcpy(rows[i].entry, &entry, sizeof entry); /* ISO C knows no cast from object to function */
        ok = entry != NULL;
    }
    if (ok && n->init() == 0) return true;
    if (n->library != NULL) (void)dlclose(n->library);
    return false;
}

/* CUDA counts the devices that CUDA_VISIBLE_DEVICES leaves over, the management library all of them. */
static bool find_device(const nvml *n, int64_t device, void **out)
{
    char item[64];
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    if (list == NULL || *list == '\0') return n->by_index((unsigned)device, out) == 0;
    for (; device > 0; device--) {
        list = strchr(list, ',');
        if (list == NULL) return false;
        list++;
    }
    (void)snprintf(item, sizeof item, "%.*s", (int)strcspn(list, ","), list);
    if (isdigit((unsigned char)item[0])) return n->by_index((unsigned)strtoul(item, NULL, 10), out) == 0;
    return n->by_uuid(item, out) == 0;
}

static void add(char text[QS_CLOCKS_TEXT_BYTES], const char *separator, const char *piece)
{
    size_t used = strlen(text);
    (void)snprintf(text + used, QS_CLOCKS_TEXT_BYTES - used, "%s%s", used > 0 ? separator : "", piece);
}

static void describe(const nvml *n, void *device, char text[QS_CLOCKS_TEXT_BYTES])
{
    char piece[64];
    unsigned now, most;
    unsigned long long bits;
    if (n->clock(device, CLOCK_SM, &now) == 0 && n->max_clock(device, CLOCK_SM, &most) == 0) {
        (void)snprintf(piece, sizeof piece, "SM %u of %u MHz", now, most);
        add(text, ", ", piece);
    }
    if (n->clock(device, CLOCK_MEMORY, &now) == 0) {
        (void)snprintf(piece, sizeof piece, "memory %u MHz", now);
        add(text, ", ", piece);
    }
    if (n->temperature(device, 0, &now) == 0) {
        (void)snprintf(piece, sizeof piece, "%u C", now);
        add(text, ", ", piece);
    }
    if (n->power(device, &now) == 0) {
        (void)snprintf(piece, sizeof piece, "%u W", now / 1000);
        add(text, ", ", piece);
    }
    if (n->reasons(device, &bits) != 0) return;
    bool held = false;
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++) {
        if ((bits & reasons[i].bit) == 0) continue;
        add(text, held ? " and " : ", held down by ", reasons[i].text);
        held = true;
    }
    if (!held) add(text, ", ", "not held down");
}

bool qs_clocks_read(char text[QS_CLOCKS_TEXT_BYTES], int64_t device)
{
    nvml n = {0};
    void *handle;
    text[0] = '\0';
    if (!nvml_open(&n)) return false;
    if (find_device(&n, device, &handle)) describe(&n, handle, text);
    (void)n.shutdown();
    (void)dlclose(n.library);
    return text[0] != '\0';
}
