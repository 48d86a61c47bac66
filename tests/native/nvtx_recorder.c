/* An NVTX tool that writes a line for each range that starts or ends
 *
 *   start NUMBER NANOSECONDS DOMAIN<tab>NAME
 *   end NUMBER NANOSECONDS DOMAIN
 *
 * to the file $NVTX_RECORD.PROCESS. Load it with NVTX_INJECTION64_PATH. Records only domain ranges,
 * the project's kind; pushed ranges and marks are ignored.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <nvtx3/nvToolsExt.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int file = -1;
static atomic_ullong ranges;

static unsigned long long now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return 1000000000ull * time.tv_sec + time.tv_nsec;
}

/* A domain's handle is its name. */
static nvtxDomainHandle_t create(const char* name) { return (nvtxDomainHandle_t)strdup(name); }

static nvtxRangeId_t start(nvtxDomainHandle_t domain, const nvtxEventAttributes_t* attributes) {
  const nvtxRangeId_t range = ++ranges;
  if (attributes->version != NVTX_VERSION || attributes->messageType != NVTX_MESSAGE_TYPE_ASCII) {
    abort();
  }
  dprintf(file, "start %llu %llu %s\t%s\n", (unsigned long long)range, now(), (char*)domain,
          attributes->message.ascii);
  return range;
}

static void end(nvtxDomainHandle_t domain, nvtxRangeId_t range) {
  dprintf(file, "end %llu %llu %s\n", (unsigned long long)range, now(), (char*)domain);
}

int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table) {
  const NvtxExportTableCallbacks* callbacks = get_table(NVTX_ETID_CALLBACKS);
  NvtxFunctionTable functions = NULL;
  unsigned int size = 0;
  char path[4096];
  snprintf(path, sizeof path, "%s.%d", getenv("NVTX_RECORD"), (int)getpid());
  file = open(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
  if (file < 0 || callbacks == NULL ||
      !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &functions, &size) ||
      size <= NVTX_CBID_CORE2_DomainCreateA) {
    return 0;
  }
  *functions[NVTX_CBID_CORE2_DomainCreateA] = (NvtxFunctionPointer)create;
  *functions[NVTX_CBID_CORE2_DomainRangeStartEx] = (NvtxFunctionPointer)start;
  *functions[NVTX_CBID_CORE2_DomainRangeEnd] = (NvtxFunctionPointer)end;
  return 1;
}
