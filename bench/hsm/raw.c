/* The fastest that a PKCS#11 module signs: C_SignInit and C_Sign in a loop, one thread for each session.
 *
 * Usage: raw MODULE PIN KEY-LABEL SESSIONS MECHANISM(hex) OCTETS SECONDS
 * Prints signatures, seconds on the wall, and seconds of this process on a CPU. The first slot that holds a token is used.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef unsigned long CK_ULONG;
struct function_list { unsigned char version[2]; void *call[68]; }; /* PKCS#11 v2.40 §3: in the standard's order */
struct mechanism { CK_ULONG type; void *parameter; CK_ULONG length; };
struct attribute { CK_ULONG type; const void *value; CK_ULONG length; };
struct initialize_args { void *create, *destroy, *lock, *unlock; CK_ULONG flags; void *reserved; };
enum { MOST_SESSIONS = 64, CKF_OS_LOCKING_OK = 2, CKF_SERIAL_SESSION = 4, CKU_USER = 1, CKO_PRIVATE_KEY = 3, CKA_CLASS = 0, CKA_LABEL = 3 };

static struct function_list *functions;
static volatile int stopped;
static CK_ULONG slot, mechanism_type, octets;
static const char *label;

#define CALL(index, ...) ((CK_ULONG (*)())functions->call[index])(__VA_ARGS__)

static void must(CK_ULONG result, const char *call) {
    if (result != 0) { fprintf(stderr, "%s returned %#lx\n", call, result); exit(1); }
}

static double clock_s(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static void *sign(void *made) {
    CK_ULONG session, key, found = 0, class = CKO_PRIVATE_KEY;
    struct attribute wanted[] = {{CKA_CLASS, &class, sizeof class}, {CKA_LABEL, label, strlen(label)}};
    struct mechanism how = {mechanism_type, NULL, 0};
    unsigned char data[256], signature[1024];
    must(CALL(12, slot, (CK_ULONG)CKF_SERIAL_SESSION, NULL, NULL, &session), "C_OpenSession");
    must(CALL(26, session, wanted, 2UL), "C_FindObjectsInit");
    must(CALL(27, session, &key, 1UL, &found), "C_FindObjects");
    must(CALL(28, session), "C_FindObjectsFinal");
    if (found != 1) { fprintf(stderr, "no key %s\n", label); exit(1); }
    memset(data, 7, sizeof data);
    for (long count = 0; !stopped; *(long *)made = ++count) {
        CK_ULONG length = sizeof signature;
        data[0] = (unsigned char)count;
        must(CALL(42, session, &how, key), "C_SignInit");
        must(CALL(43, session, data, octets, signature, &length), "C_Sign");
    }
    return NULL;
}

int main(int count, char **arguments) {
    if (count != 8) return 2;
    void *library = dlopen(arguments[1], RTLD_NOW);
    CK_ULONG (*get)(struct function_list **) = NULL;
    if (library != NULL) *(void **)&get = dlsym(library, "C_GetFunctionList");
    if (get == NULL || get(&functions) != 0) { fprintf(stderr, "no module: %s\n", dlerror()); return 1; }
    struct initialize_args locks = {NULL, NULL, NULL, NULL, CKF_OS_LOCKING_OK, NULL};
    CK_ULONG slots[16], found = 16, session;
    must(CALL(0, &locks), "C_Initialize");
    must(CALL(4, 1, slots, &found), "C_GetSlotList");
    slot = slots[0];
    label = arguments[3];
    int sessions = atoi(arguments[4]);
    mechanism_type = strtoul(arguments[5], NULL, 16);
    octets = strtoul(arguments[6], NULL, 10);
    double seconds = atof(arguments[7]);
    if (sessions < 1 || sessions > MOST_SESSIONS || octets > 256) return 2;
    must(CALL(12, slot, (CK_ULONG)CKF_SERIAL_SESSION, NULL, NULL, &session), "C_OpenSession");
    must(CALL(18, session, (CK_ULONG)CKU_USER, arguments[2], (CK_ULONG)strlen(arguments[2])), "C_Login");
    pthread_t threads[MOST_SESSIONS];
    long made[MOST_SESSIONS] = {0}, sum = 0;
    double wall = clock_s(CLOCK_MONOTONIC), cpu = clock_s(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < sessions; i++) pthread_create(&threads[i], NULL, sign, &made[i]);
    struct timespec pause = {(time_t)seconds, (long)((seconds - (time_t)seconds) * 1e9)};
    nanosleep(&pause, NULL);
    stopped = 1;
    for (int i = 0; i < sessions; i++) pthread_join(threads[i], NULL), sum += made[i];
    wall = clock_s(CLOCK_MONOTONIC) - wall;
    cpu = clock_s(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    printf("%ld %.6f %.6f\n", sum, wall, cpu);
    return 0;
}
