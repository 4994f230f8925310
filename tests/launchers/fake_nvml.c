/* Stands in for libnvidia-ml.so.1: the GPUs of $FAKE_GPUS, for the real Python binding.
 *
 * FAKE_GPUS="GPU-a:0 GPU-b:2 GPU-c:0=MIG-x:0,MIG-y:1": UUID:processes, after "=" a card's MIG
 * instances. Build: cc -shared -fPIC -o libnvidia-ml.so.1 fake_nvml.c
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7 };

struct device {
    char uuid[96];
    unsigned processes, instances;
    struct device *instance;
};
struct memory { unsigned long long total, free, used; };
struct process { unsigned pid; unsigned long long memory; unsigned gpu, compute; };

static struct device cards[16];
static unsigned num_cards;

static void read_device(struct device *device, const char *text) {
    sscanf(text, "%95[^:]:%u", device->uuid, &device->processes);
}

int nvmlInitWithFlags(unsigned flags) {
    char *list = strdup(getenv("FAKE_GPUS") ? getenv("FAKE_GPUS") : ""), *rest = list, *entry;
    num_cards = 0;
    memset(cards, 0, sizeof cards);
    while ((entry = strsep(&rest, " "))) {
        struct device *card = &cards[num_cards];
        char *instances = strchr(entry, '='), *text;
        if (!*entry) continue;
        num_cards++;
        if (instances) *instances++ = 0;
        read_device(card, entry);
        if (instances) card->instance = calloc(8, sizeof *card);
        while (instances && (text = strsep(&instances, ",")))
            read_device(&card->instance[card->instances++], text);
    }
    free(list);
    return OK;
}
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return "an error of the stand-in"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = num_cards; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **device) {
    *device = &cards[index];
    return index < num_cards ? OK : NOT_FOUND;
}
int nvmlDeviceGetMigMode(struct device *device, unsigned *now, unsigned *later) {
    *now = *later = 1;
    return device->instances ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetMaxMigDeviceCount(struct device *device, unsigned *count) {
    *count = 7;
    return OK;
}
int nvmlDeviceGetMigDeviceHandleByIndex(struct device *d, unsigned index, struct device **found) {
    *found = &d->instance[index];
    return index < d->instances ? OK : NOT_FOUND;
}
int nvmlDeviceGetUUID(struct device *device, char *text, unsigned size) {
    snprintf(text, size, "%s", device->uuid);
    return OK;
}
int nvmlDeviceGetName(struct device *device, char *text, unsigned size) {
    snprintf(text, size, "Fake GPU");
    return OK;
}
int nvmlDeviceGetMemoryInfo(struct device *device, struct memory *memory) {
    memory->total = memory->free = 80ULL << 30;
    memory->used = 0;
    return OK;
}
int nvmlDeviceGetComputeRunningProcesses_v3(struct device *d, unsigned *count, struct process *p) {
    unsigned room = *count;
    *count = d->processes;
    if (!d->processes) return OK;
    if (!p || room < d->processes) return TOO_SMALL;
    memset(p, 0, sizeof *p * d->processes);
    return OK;
}
