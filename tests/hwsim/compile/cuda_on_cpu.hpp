// CUDA on a CPU: the part of the language that the generated kernels use, their PTX instructions, and the driver.
//
// The threads of a block are coroutines. A warp runs as far as it can, alone, until its threads wait at a barrier of
// the block; with HWSIM_BACKWARDS the last warp and the last lane go first. So a barrier that is missing shows: one
// warp reads what another has not yet written. Copies with cp.async are made when a wait asks for them, not before;
// shared memory begins with garbage in every block. Fragments follow the PTX ISA, "Matrix fragments for mma.*".
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(n)
#define SHARED static __attribute__((section("hwsim_shared"), used))
#define __restrict__

struct Index { int x, y, z; };
static Index blockIdx, threadIdx;
struct int2 { int x, y; };
struct int4 { int x, y, z, w; };
static inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
template <class T> static inline T max(T a, T b) { return a < b ? b : a; }
template <class T> static inline T min(T a, T b) { return b < a ? b : a; }
static inline float __fadd_rn(float a, float b) { volatile float sum = a + b; return sum; }
static inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) c += (int8_t)(a >> (8 * i)) * (int8_t)(b >> (8 * i));
  return c;
}

static void check(bool holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "cuda_on_cpu: %s (block %d, thread %d)\n", what, blockIdx.x, threadIdx.x);
  abort();
}

// ---- Shared memory: one section of the library; addresses are offsets in it.

alignas(64) SHARED int shared_begins[16];
extern char __start_hwsim_shared[], __stop_hwsim_shared[];
static size_t __cvta_generic_to_shared(const void* pointer) {
  const char* place = (const char*)pointer;
  check(place >= __start_hwsim_shared && place < __stop_hwsim_shared, "not an address in shared memory");
  return place - __start_hwsim_shared;
}

// ---- Threads of one block.

struct Copy { unsigned to; const void* from; int bytes, valid; };
struct Thread {
  ucontext_t context;
  bool done = false, at_barrier = false;
  std::vector<std::vector<Copy>> groups{1};  // the last one is open
};
struct Warp {
  int arrived = 0;
  const char* what = nullptr;
  unsigned turn = 0;
  unsigned in[32][12];
  unsigned out[32][4];
};
static std::vector<Thread> threads;
static std::vector<Warp> warps;
static ucontext_t scheduler;
static void (*body)();
static const size_t STACK = 128 << 10;

static void pause() { swapcontext(&threads[threadIdx.x].context, &scheduler); }
static void entry() {
  body();
  threads[threadIdx.x].done = true;
  pause();
}
static void __syncthreads() {
  threads[threadIdx.x].at_barrier = true;
  pause();
}

// All 32 lanes bring their registers; the last one computes for all.
template <class F>
static unsigned* together(const char* what, std::initializer_list<unsigned> registers, F compute) {
  Warp& warp = warps[threadIdx.x / 32];
  check(!warp.arrived || warp.what == what, "lanes of one warp at different instructions");
  warp.what = what;
  const int lane = threadIdx.x % 32;
  int place = 0;
  for (unsigned value : registers) warp.in[lane][place++] = value;
  const unsigned turn = warp.turn;
  if (++warp.arrived == 32) {
    compute(warp);
    warp.arrived = 0;
    ++warp.turn;
  }
  while (warp.turn == turn) pause();
  return warp.out[lane];
}

static void run_block(int count, bool backwards) {
  static std::vector<char> stacks;
  stacks.resize(count * STACK);
  memset(__start_hwsim_shared, 0xA5, __stop_hwsim_shared - __start_hwsim_shared);
  threads.assign(count, Thread());
  warps.assign((count + 31) / 32, Warp());
  for (int i = 0; i < count; ++i) {
    getcontext(&threads[i].context);
    threads[i].context.uc_stack.ss_sp = stacks.data() + i * STACK;
    threads[i].context.uc_stack.ss_size = STACK;
    makecontext(&threads[i].context, entry, 0);
  }
  const int lanes = (int)warps.size();
  for (bool left = true; left;) {
    left = false;
    for (int w = 0; w < lanes; ++w) {
      const int warp = backwards ? lanes - 1 - w : w;
      for (bool running = true; running;) {  // until all of its threads wait or have ended
        running = false;
        const unsigned turn = warps[warp].turn;
        const int arrived = warps[warp].arrived;
        bool moved = false;
        for (int l = 0; l < 32; ++l) {
          const int at = warp * 32 + (backwards ? 31 - l : l);
          if (at >= count || threads[at].done || threads[at].at_barrier) continue;
          threadIdx.x = at;
          swapcontext(&scheduler, &threads[at].context);
          const bool ended = threads[at].done || threads[at].at_barrier;
          moved |= ended, running |= !ended;
        }
        moved |= warps[warp].turn != turn || warps[warp].arrived != arrived;
        check(!running || moved, "an instruction of a warp that not all lanes reach");
      }
    }
    int at_barrier = 0, done = 0;
    for (Thread& thread : threads) at_barrier += thread.at_barrier, done += thread.done;
    check(at_barrier + done == count && (!at_barrier || !done), "a barrier that not all threads reach");
    for (Thread& thread : threads) thread.at_barrier = false;
    left = at_barrier > 0;
  }
}

// ---- PTX instructions, named by their text.

static void cp_async(unsigned to, const void* from, int bytes, int valid) {
  check(to % bytes == 0, "cp.async to an unaligned place");
  check((uintptr_t)from % bytes == 0, "cp.async from an unaligned address");
  check(valid >= 0 && valid <= bytes, "cp.async of too many bytes");
  threads[threadIdx.x].groups.back().push_back({to, from, bytes, valid});
}
static void cp_async_cg_shared_global(unsigned to, const void* from, int bytes, int valid) {
  check(bytes == 16, "cp.async.cg copies 16 bytes");
  cp_async(to, from, bytes, valid);
}
static void cp_async_ca_shared_global(unsigned to, const void* from, int bytes, int valid) {
  check(bytes == 4 || bytes == 8 || bytes == 16, "cp.async.ca copies 4, 8 or 16 bytes");
  cp_async(to, from, bytes, valid);
}
static void cp_async_commit_group() { threads[threadIdx.x].groups.emplace_back(); }
static void cp_async_wait_group(int pending) {
  auto& groups = threads[threadIdx.x].groups;
  while ((int)groups.size() - 1 > pending) {
    for (const Copy& copy : groups.front()) {
      memset(__start_hwsim_shared + copy.to, 0, copy.bytes);
      memcpy(__start_hwsim_shared + copy.to, copy.from, copy.valid);
    }
    groups.erase(groups.begin());
  }
}

// Matrix m of 8 rows of 16 bytes: lane 8 m + i brings the address of row i; lane gets 4 bytes of row lane / 4.
static unsigned* ldmatrix(int matrices, unsigned address) {
  return together(matrices == 4 ? "x4" : "x2", {address}, [=](Warp& warp) {
    for (int m = 0; m < matrices; ++m)
      for (int lane = 0; lane < 32; ++lane) {
        const unsigned row = warp.in[8 * m + lane / 4][0];
        check(row % 16 == 0, "ldmatrix of an unaligned row");
        memcpy(&warp.out[lane][m], __start_hwsim_shared + row + lane % 4 * 4, 4);
      }
  });
}
static void ldmatrix_sync_aligned_m8n8_x4_shared_b16(unsigned& r0, unsigned& r1, unsigned& r2, unsigned& r3, unsigned address) {
  unsigned* out = ldmatrix(4, address);
  r0 = out[0], r1 = out[1], r2 = out[2], r3 = out[3];
}
static void ldmatrix_sync_aligned_m8n8_x2_shared_b16(unsigned& r0, unsigned& r1, unsigned address) {
  unsigned* out = ldmatrix(2, address);
  r0 = out[0], r1 = out[1];
}

// Element i of the registers from `first` on, of BITS bits.
template <int BITS> static int element(const unsigned* registers, int i, bool with_sign) {
  const unsigned field = registers[i * BITS / 32] >> (i * BITS % 32) & ((1u << BITS) - 1);
  return with_sign && field >> (BITS - 1) ? (int)field - (1 << BITS) : (int)field;
}

// M x 8 accumulators, K deep; a register holds 32 / BITS elements, and every 4 lanes hold one row (column of B).
template <int M, int K, int BITS> static void multiply(Warp& warp, bool signed_a) {
  constexpr int EACH = 32 / BITS, HALF = 4 * EACH, A = M * K / 32, B = 8 * K / 32, C = M * 8 / 32;
  int64_t a[M][K], b[K][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int group = lane >> 2, member = lane % 4;
    const unsigned* in = warp.in[lane];
    for (int i = 0; i < A; ++i) {  // m16: rows group, group + 8, then the same for the second half of K
      const int row = M == 8 ? group : group + i / EACH % 2 * 8;
      const int column = member * EACH + i % EACH + (M == 8 ? 0 : i / (2 * EACH) * HALF);
      a[row][column] = element<BITS>(in, i, signed_a);
    }
    for (int i = 0; i < B; ++i)
      b[member * EACH + i % EACH + i / EACH * HALF][group] = element<BITS>(in + A / EACH, i, true);
  }
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < C; ++i) {
      const int row = (lane >> 2) + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      int64_t sum = (int32_t)warp.in[lane][A / EACH + B / EACH + i];
      for (int k = 0; k < K; ++k) sum += a[row][k] * b[k][column];
      warp.out[lane][i] = (unsigned)sum;
    }
}
#define MMA16(NAME, K, BITS, SIGNED)                                                                              \
  static void NAME(int& d0, int& d1, int& d2, int& d3, unsigned a0, unsigned a1, unsigned a2, unsigned a3,        \
                   unsigned b0, unsigned b1, int c0, int c1, int c2, int c3) {                                    \
    unsigned* out = together(#NAME, {a0, a1, a2, a3, b0, b1, (unsigned)c0, (unsigned)c1, (unsigned)c2, (unsigned)c3},    \
                             [](Warp& warp) { multiply<16, K, BITS>(warp, SIGNED); });                            \
    d0 = out[0], d1 = out[1], d2 = out[2], d3 = out[3];                                                           \
  }
#define MMA8(NAME, K, BITS, SIGNED)                                                                               \
  static void NAME(int& d0, int& d1, unsigned a, unsigned b, int c0, int c1) {                                    \
    unsigned* out = together(#NAME, {a, b, (unsigned)c0, (unsigned)c1}, [](Warp& warp) { multiply<8, K, BITS>(warp, SIGNED); }); \
    d0 = out[0], d1 = out[1];                                                                                     \
  }
MMA16(mma_sync_aligned_m16n8k32_row_col_s32_u8_s8_s32, 32, 8, false)
MMA16(mma_sync_aligned_m16n8k32_row_col_s32_s8_s8_s32, 32, 8, true)
MMA16(mma_sync_aligned_m16n8k64_row_col_s32_u4_s4_s32, 64, 4, false)
MMA8(mma_sync_aligned_m8n8k16_row_col_s32_u8_s8_s32, 16, 8, false)
MMA8(mma_sync_aligned_m8n8k16_row_col_s32_s8_s8_s32, 16, 8, true)
MMA8(mma_sync_aligned_m8n8k32_row_col_s32_u4_s4_s32, 32, 4, false)

// ---- The driver, as hwsim.runtime.cuda calls it. A function is an entry of the table that the harness appends.

struct Function { const char* name; void* code; int parameters; };
extern const Function FUNCTIONS[];
extern const int FUNCTION_COUNT, CAPABILITY;
typedef void (*Code)(void*, void*, void*, void*, void*, void*, void*, void*,
                     void*, void*, void*, void*, void*, void*, void*, void*);

extern "C" {
int cuInit(unsigned) { return 0; }
int cuDeviceGetCount(int* count) { *count = 1; return 0; }
int cuDeviceGet(int* device, int) { *device = 0; return 0; }
int cuDeviceGetName(char* name, int size, int) { snprintf(name, size, "a CPU"); return 0; }
int cuDeviceGetAttribute(int* value, int which, int) { *value = which == 75 ? CAPABILITY / 10 : CAPABILITY % 10; return 0; }
int cuDevicePrimaryCtxRetain(void** context, int) { *context = &scheduler; return 0; }
int cuCtxSetCurrent(void*) { return 0; }
int cuCtxSynchronize() { return 0; }
int cuModuleLoadData(void** module, const void* image) { *module = (void*)image; return image ? 0 : 200; }
int cuModuleGetFunction(const Function** found, void*, const char* name) {
  for (int i = 0; i < FUNCTION_COUNT; ++i)
    if (!strcmp(FUNCTIONS[i].name, name)) { *found = &FUNCTIONS[i]; return 0; }
  return 500;
}
int cuMemAlloc_v2(uint64_t* pointer, size_t bytes) {
  *pointer = (uint64_t)aligned_alloc(256, (bytes + 255) / 256 * 256);
  memset((void*)*pointer, 0x5A, bytes);
  return 0;
}
int cuMemFree_v2(uint64_t pointer) { free((void*)pointer); return 0; }
int cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t bytes) { memcpy((void*)to, from, bytes); return 0; }
int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t bytes) { memcpy(to, (void*)from, bytes); return 0; }
int cuMemsetD8_v2(uint64_t to, unsigned char value, size_t bytes) { memset((void*)to, value, bytes); return 0; }
int cuGetErrorString(int, const char** text) { *text = "an error of the CPU that stands in"; return 0; }
int cuLaunchKernel(const Function* function, unsigned blocks, unsigned, unsigned, unsigned count, unsigned, unsigned,
                   unsigned, void*, void** parameters, void**) {
  static void* a[16];
  static Code code;
  code = (Code)function->code;
  for (int i = 0; i < function->parameters; ++i) a[i] = *(void**)parameters[i];
  const bool backwards = getenv("HWSIM_BACKWARDS") != nullptr;
  body = [] {
    code(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]);
  };
  for (blockIdx.x = 0; blockIdx.x < (int)blocks; ++blockIdx.x) run_block(count, backwards);
  return 0;
}
}
