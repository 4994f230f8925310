/* Stands in for libnvidia-ml.so.1: the GPUs of $FAKE_GPUS, for the real Python binding.
 *
 * FAKE_GPUS="GPU-a:0 GPU-b:2 GPU-c:0=MIG-x:0,MIG-y:1 GPU-d:0:lost": UUID:processes, after "=" a
 * card's MIG instances; a third word makes it one that is "lost", or that knows no "name" or no
 * "uuid". FAKE_NVML_ERROR is what starting NVML returns. The memory is told of none. Build: cc -shared -fPIC -o libnvidia-ml.so.1 fake_nvml.c
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, LOST = 15 };

struct device {
    char uuid[96], trouble[8];
    unsigned processes, instances;
    struct device *instance;
};
struct process { unsigned pid; unsigned long long memory; unsigned gpu, compute; };

static struct device cards[16];
static unsigned num_cards;

static void read_device(struct device *device, const char *text) {
    sscanf(text, "%95[^:]:%u:%7s", device->uuid, &device->processes, device->trouble);
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
    return getenv("FAKE_NVML_ERROR") ? atoi(getenv("FAKE_NVML_ERROR")) : OK;
}
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return "an error of the stand-in"; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = num_cards; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **device) {
    *device = &cards[index];
    if (index >= num_cards) return NOT_FOUND;
    return strcmp(cards[index].trouble, "lost") ? OK : LOST;
}
int nvmlDeviceGetMinorNumber(struct device *device, unsigned *number) {
    *number = device - cards;
    return OK;
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
    return strcmp(device->trouble, "uuid") ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetName(struct device *device, char *text, unsigned size) {
    snprintf(text, size, "Fake GPU");
    return strcmp(device->trouble, "name") ? OK : NOT_SUPPORTED;
}
int nvmlDeviceGetMemoryInfo(struct device *device, void *memory) { return NOT_SUPPORTED; }
int nvmlDeviceGetComputeRunningProcesses_v3(struct device *d, unsigned *count, struct process *p) {
    unsigned room = *count;
    *count = d->processes;
    if (!d->processes) return OK;
    if (!p || room < d->processes) return TOO_SMALL;
    memset(p, 0, sizeof *p * d->processes);
    return OK;
}
