/* Runs a compiled artifact from C: no Python, no TVM.
 *
 *   cc -O2 -rdynamic -o run run.c -ldl -lpthread
 *   ./run art/ input.bin output.bin [repeats]
 *
 * input.bin holds the inputs one after another as raw little-endian arrays; output.bin receives the outputs.
 * The program is read from art/program.txt, the constants straight from art/params.safetensors (program.txt
 * gives their offsets), the kernels from art/module.so. With -rdynamic the one symbol that the kernels want
 * from the TVM FFI (to report a wrong argument) is found in this file. Verify the sha256 sums of
 * art/manifest.json before running an artifact you did not make; this example leaves that to sha256sum.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct { int32_t device_type, device_id; } Device;
typedef struct { uint8_t code, bits; uint16_t lanes; } DataType;
typedef struct {
  void *data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} Tensor; /* DLTensor */
typedef struct {
  int32_t type_index;
  uint32_t padding;
  union { int64_t integer; void *pointer; } value;
} Any; /* TVMFFIAny */
typedef int (*Kernel)(void *self, const Any *arguments, int32_t count, Any *result);

enum { TENSOR_POINTER = 7, MAX_ARGUMENTS = 64, MAX_UNITS = 64 };

/* What generated code calls when an argument does not fit. */
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int32_t i = 0; i < count; ++i) fputs(parts[i], stderr);
  fputc('\n', stderr);
}

static void die(const char *what, const char *detail) {
  fprintf(stderr, "run: %s %s\n", what, detail ? detail : "");
  exit(1);
}

static FILE *open_in(const char *directory, const char *name) {
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  FILE *file = fopen(path, "rb");
  if (!file) die("cannot open", path);
  return file;
}

/* Kernels expect 64-byte alignment and 64 bytes of slack. */
static void *allocate(size_t bytes) {
  void *memory = NULL;
  if (posix_memalign(&memory, 64, bytes + 64)) die("out of memory", NULL);
  memset(memory, 0, bytes + 64);
  return memory;
}

static DataType type_of(const char *name, size_t *bytes) {
  static const struct { const char *name; DataType type; } known[] = {
      {"float32", {2, 32, 1}}, {"int32", {0, 32, 1}}, {"int64", {0, 64, 1}},
      {"int8", {0, 8, 1}},     {"uint8", {1, 8, 1}},  {"bool", {6, 8, 1}}};
  for (size_t i = 0; i < sizeof known / sizeof *known; ++i)
    if (!strcmp(known[i].name, name)) {
      *bytes = known[i].type.bits / 8;
      return known[i].type;
    }
  die("unknown type", name);
  return known[0].type;
}

typedef struct { Kernel kernel; int unit, count; Any arguments[MAX_ARGUMENTS]; } Step;
typedef struct { Step *first, *end; int unit; } Lane;

/* The steps of one unit in a block. */
static void *run_lane(void *pointer) {
  const Lane *lane = pointer;
  for (Step *step = lane->first; step < lane->end; ++step) {
    Any result = {0};
    if (step->unit == lane->unit && step->kernel(NULL, step->arguments, step->count, &result))
      die("a kernel failed", NULL);
  }
  return NULL;
}

/* Neighbouring steps with a unit form a block: units run side by side. A step of unit -1 runs alone. */
static void run_all(Step *plan, Step *end) {
  while (plan < end) {
    Step *next = plan + 1;
    int units = 1;
    pthread_t threads[MAX_UNITS];
    Lane lanes[MAX_UNITS];
    for (; plan->unit >= 0 && next < end && next->unit >= 0; ++next)
      if (next->unit + 1 > units) units = next->unit + 1;
    for (int unit = 0; unit < units; ++unit) {
      lanes[unit] = (Lane){plan, next, plan->unit < 0 ? -1 : unit};
      if (unit && pthread_create(&threads[unit], NULL, run_lane, &lanes[unit])) die("no thread", NULL);
    }
    run_lane(&lanes[0]);
    for (int unit = 1; unit < units; ++unit) pthread_join(threads[unit], NULL);
    plan = next;
  }
}

int main(int argc, char **argv) {
  if (argc < 4) die("usage: run ARTIFACT INPUT.bin OUTPUT.bin [repeats]", NULL);
  const char *directory = argv[1];
  int repeats = argc > 4 ? atoi(argv[4]) : 1;
  FILE *program = open_in(directory, "program.txt"), *params = open_in(directory, "params.safetensors");
  char path[4096];
  snprintf(path, sizeof path, "%s/module.so", directory);
  void *library = dlopen(path, RTLD_NOW);
  if (!library) die("dlopen:", dlerror());

  size_t arena_bytes;
  int buffers, inputs, outputs, steps;
  if (fscanf(program, "hwsim-program 1 arena %zu buffers %d inputs %d outputs %d steps %d", &arena_bytes,
             &buffers, &inputs, &outputs, &steps) != 5)
    die("program.txt: not a program of version 1", NULL);
  char *arena = allocate(arena_bytes);
  Tensor *tensors = calloc(buffers, sizeof *tensors);
  int64_t *shapes = calloc(buffers, sizeof *shapes);
  for (int i = 0; i < buffers; ++i) {
    char kind[16], dtype[16];
    long long elements, offset;
    size_t width;
    if (fscanf(program, "%15s %15s %lld %lld", kind, dtype, &elements, &offset) != 4) die("program.txt:", "buffers");
    tensors[i] = (Tensor){NULL, {1, 0}, 1, type_of(dtype, &width), &shapes[i], NULL, 0};
    shapes[i] = elements;
    if (!strcmp(kind, "work")) {
      tensors[i].data = arena + offset;
      continue;
    }
    tensors[i].data = allocate(elements * width);
    if (!strcmp(kind, "constant")) {
      if (fseek(params, (long)offset, SEEK_SET) || fread(tensors[i].data, width, elements, params) != (size_t)elements)
        die("params.safetensors:", "too short");
    }
  }
  FILE *input = fopen(argv[2], "rb");
  if (!input) die("cannot open", argv[2]);
  for (int i = 0, index; i < inputs; ++i) {
    if (fscanf(program, "%d", &index) != 1) die("program.txt:", "inputs");
    size_t width = tensors[index].dtype.bits / 8;
    if (fread(tensors[index].data, width, shapes[index], input) != (size_t)shapes[index]) die(argv[2], "is too short");
  }
  int *results = calloc(outputs, sizeof *results);
  for (int i = 0; i < outputs; ++i)
    if (fscanf(program, "%d", &results[i]) != 1) die("program.txt:", "outputs");

  Step *plan = calloc(steps, sizeof *plan);
  for (int i = 0; i < steps; ++i) {
    char name[256], symbol[300];
    if (fscanf(program, "%255s %d %d", name, &plan[i].unit, &plan[i].count) != 3 ||
        plan[i].count > MAX_ARGUMENTS || plan[i].unit >= MAX_UNITS)
      die("program.txt:", "steps");
    snprintf(symbol, sizeof symbol, "__tvm_ffi_%s", name);
    plan[i].kernel = (Kernel)dlsym(library, symbol);
    if (!plan[i].kernel) die("no kernel", name);
    for (int j = 0, index; j < plan[i].count; ++j) {
      if (fscanf(program, "%d", &index) != 1 || index < 0 || index >= buffers) die("program.txt:", "arguments");
      plan[i].arguments[j] = (Any){TENSOR_POINTER, 0, {.pointer = &tensors[index]}};
    }
  }
  struct timespec start, end;
  double best = 1e9;
  for (int r = 0; r < repeats; ++r) {
    clock_gettime(CLOCK_MONOTONIC, &start);
    run_all(plan, plan + steps);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds = (end.tv_sec - start.tv_sec) + 1e-9 * (end.tv_nsec - start.tv_nsec);
    if (seconds < best) best = seconds;
  }
  fprintf(stderr, "best of %d: %.3f ms\n", repeats, 1e3 * best);
  FILE *output = fopen(argv[3], "wb");
  if (!output) die("cannot write", argv[3]);
  for (int i = 0; i < outputs; ++i)
    fwrite(tensors[results[i]].data, tensors[results[i]].dtype.bits / 8, shapes[results[i]], output);
  fclose(output);
  return 0;
}
