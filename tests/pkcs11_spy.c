/* A PKCS#11 module that stands before another one and counts, and fails where it is told to.
 *
 * Built by tests/softhsm.py. Only what a real token does to us and SoftHSM cannot be made to do is spelled out
 * here; every other call goes straight to the module named by SPY_MODULE. Its orders are files in SPY_DIRECTORY:
 *   logins       it appends one octet for each C_Login, initialisations one for each C_Initialize, opened and closed for sessions
 *   login-hang   C_Login does not return while it is there
 *   sign         C_Sign returns the hexadecimal CK_RV in it
 *   flags        hexadecimal CK_FLAGS that C_GetTokenInfo adds
 *   mechanisms   hexadecimal mechanism types that C_GetMechanismList leaves out, one a line
 *   raw          C_Sign returns octets of zero
 *   garbage      C_Sign turns over a bit of each signature that it returns
 *   delay        C_Sign takes so many microseconds longer (hexadecimal)
 *   hang         C_Sign does not return while it is there
 *   crash        C_Sign ends the process by SIGSEGV
 *   removed      C_Sign returns CKR_DEVICE_REMOVED, and no slot has a token
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long CK_ULONG;
typedef void *function;

/* PKCS#11 v2.40 §3: CK_FUNCTION_LIST is CK_VERSION and then the functions in a fixed order. */
enum { C_INITIALIZE = 0, C_GET_FUNCTION_LIST = 3, C_GET_SLOT_LIST = 4, C_GET_TOKEN_INFO = 6, C_GET_MECHANISM_LIST = 7, C_OPEN_SESSION = 12, C_CLOSE_SESSION = 13, C_LOGIN = 18, C_SIGN = 43, COUNT = 68 };
struct function_list { unsigned char version[2]; function call[COUNT]; };

enum { CKR_GENERAL_ERROR = 5, CKR_DEVICE_REMOVED = 0x32, TOKEN_INFO_FLAGS_OFFSET = 96 }; /* label, manufacturer, model, serial: 32+32+16+16 */

static struct function_list spy;
static struct function_list *real;

static FILE *order(const char *name, const char *mode) {
    char path[4096];
    const char *directory = getenv("SPY_DIRECTORY");
    if (directory == NULL) return NULL;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return fopen(path, mode);
}

static int number(const char *name, CK_ULONG *value) {
    FILE *file = order(name, "r");
    if (file == NULL) return 0;
    int read = fscanf(file, "%lx", value);
    fclose(file);
    return read == 1;
}

static int given(const char *name) {
    FILE *file = order(name, "r");
    if (file != NULL) fclose(file);
    return file != NULL;
}

static void count(const char *name) {
    FILE *file = order(name, "a");
    if (file != NULL) { fputc('1', file); fclose(file); }
}

static CK_ULONG spy_initialize(void *arguments) {
    count("initialisations");
    return ((CK_ULONG (*)(void *))real->call[C_INITIALIZE])(arguments);
}

static CK_ULONG spy_login(CK_ULONG session, CK_ULONG user, unsigned char *pin, CK_ULONG length) {
    count("logins");
    while (given("login-hang")) usleep(10000);
    return ((CK_ULONG (*)(CK_ULONG, CK_ULONG, unsigned char *, CK_ULONG))real->call[C_LOGIN])(session, user, pin, length);
}

static CK_ULONG spy_open_session(CK_ULONG slot, CK_ULONG flags, void *application, function notify, CK_ULONG *session) {
    count("opened");
    return ((CK_ULONG (*)(CK_ULONG, CK_ULONG, void *, function, CK_ULONG *))real->call[C_OPEN_SESSION])(slot, flags, application, notify, session);
}

static CK_ULONG spy_close_session(CK_ULONG session) {
    count("closed");
    return ((CK_ULONG (*)(CK_ULONG))real->call[C_CLOSE_SESSION])(session);
}

static CK_ULONG spy_get_slot_list(unsigned char present, CK_ULONG *list, CK_ULONG *length) {
    if (present && given("removed")) { *length = 0; return 0; }
    return ((CK_ULONG (*)(unsigned char, CK_ULONG *, CK_ULONG *))real->call[C_GET_SLOT_LIST])(present, list, length);
}

static CK_ULONG spy_get_token_info(CK_ULONG slot, unsigned char *info) {
    CK_ULONG result = ((CK_ULONG (*)(CK_ULONG, unsigned char *))real->call[C_GET_TOKEN_INFO])(slot, info);
    CK_ULONG added, flags;
    if (result == 0 && number("flags", &added)) {
        memcpy(&flags, info + TOKEN_INFO_FLAGS_OFFSET, sizeof flags);
        flags |= added;
        memcpy(info + TOKEN_INFO_FLAGS_OFFSET, &flags, sizeof flags);
    }
    return result;
}

static CK_ULONG spy_get_mechanism_list(CK_ULONG slot, CK_ULONG *list, CK_ULONG *length) {
    CK_ULONG result = ((CK_ULONG (*)(CK_ULONG, CK_ULONG *, CK_ULONG *))real->call[C_GET_MECHANISM_LIST])(slot, list, length);
    FILE *file = order("mechanisms", "r");
    CK_ULONG hidden;
    if (file == NULL) return result;
    while (result == 0 && list != NULL && fscanf(file, "%lx", &hidden) == 1)
        for (CK_ULONG i = 0; i < *length; i++)
            if (list[i] == hidden) list[i] = list[--*length];
    fclose(file);
    return result;
}

static CK_ULONG spy_sign(CK_ULONG session, unsigned char *data, CK_ULONG data_length, unsigned char *signature, CK_ULONG *length) {
    CK_ULONG result, microseconds;
    if (number("sign", &result)) return result;
    if (given("removed")) return CKR_DEVICE_REMOVED;
    if (given("crash")) raise(SIGSEGV);
    while (given("hang")) usleep(10000);
    if (number("delay", &microseconds)) usleep(microseconds);
    result = ((CK_ULONG (*)(CK_ULONG, unsigned char *, CK_ULONG, unsigned char *, CK_ULONG *))real->call[C_SIGN])(session, data, data_length, signature, length);
    CK_ULONG zero;
    if (result == 0 && signature != NULL && number("raw", &zero)) memset(signature, 0, *length);
    if (result == 0 && signature != NULL && given("garbage")) signature[*length - 1] ^= 1;
    return result;
}

CK_ULONG C_GetFunctionList(struct function_list **list) {
    if (real == NULL) {
        const char *path = getenv("SPY_MODULE");
        void *module = path == NULL ? NULL : dlopen(path, RTLD_NOW | RTLD_LOCAL);
        CK_ULONG (*get)(struct function_list **) = NULL;
        if (module != NULL) *(void **)&get = dlsym(module, "C_GetFunctionList");
        if (get == NULL || get(&real) != 0) return CKR_GENERAL_ERROR;
        spy = *real;
        spy.call[C_INITIALIZE] = (function)spy_initialize;
        spy.call[C_GET_FUNCTION_LIST] = (function)C_GetFunctionList;
        spy.call[C_GET_SLOT_LIST] = (function)spy_get_slot_list;
        spy.call[C_GET_TOKEN_INFO] = (function)spy_get_token_info;
        spy.call[C_GET_MECHANISM_LIST] = (function)spy_get_mechanism_list;
        spy.call[C_OPEN_SESSION] = (function)spy_open_session;
        spy.call[C_CLOSE_SESSION] = (function)spy_close_session;
        spy.call[C_LOGIN] = (function)spy_login;
        spy.call[C_SIGN] = (function)spy_sign;
    }
    *list = &spy;
    return 0;
}
