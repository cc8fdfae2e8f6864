/* The instructions of tensor cores and of their copies, one function for each (PTX ISA: cp.async, ldmatrix, mma.sync).
   What a generation lacks is made of what it has: Turing multiplies smaller tiles and copies through registers. */

/* Sub-byte instructions are emulated from Hopper on: there weights are unpacked to bytes instead. */
#if __CUDA_ARCH__ >= 900
#define HWSIM_INT4 false
#else
#define HWSIM_INT4 true
#endif

/* ALIGN bytes from global memory, as an integer of that size. */
template <int ALIGN> struct hwsim_piece { typedef int4 type; };
template <> struct hwsim_piece<8> { typedef int2 type; };
template <> struct hwsim_piece<4> { typedef int type; };
template <> struct hwsim_piece<2> { typedef short type; };
template <> struct hwsim_piece<1> { typedef signed char type; };

/* 16 bytes into shared memory in pieces of ALIGN, zeros from `rest` on. From Ampere on `begin` starts the copy and it
   goes on in the background; before, `begin` reads into registers and `end` writes them. */
template <int ALIGN> struct hwsim_copy {
  typename hwsim_piece<ALIGN>::type held[16 / ALIGN];

  __device__ __forceinline__ void begin(unsigned place, const unsigned char* from, int rest) {
#if __CUDA_ARCH__ >= 800
    if constexpr (ALIGN == 16) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place), "l"(from), "r"(rest > 0 ? 16 : 0) : "memory");
      return;
    } else if constexpr (ALIGN >= 4) {
#pragma unroll
      for (int at = 0; at < 16; at += ALIGN)
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(place + at), "l"(from + at), "n"(ALIGN),
                     "r"(rest > at ? ALIGN : 0) : "memory");
      return;
    }
#endif
#pragma unroll
    for (int i = 0; i < 16 / ALIGN; ++i) {
      held[i] = {};
      if (rest > i * ALIGN) held[i] = *(const typename hwsim_piece<ALIGN>::type*)(from + i * ALIGN);
    }
  }

  __device__ __forceinline__ void end(unsigned char* to) {
#if __CUDA_ARCH__ >= 800
    if constexpr (ALIGN >= 4) return;
#endif
#pragma unroll
    for (int i = 0; i < 16 / ALIGN; ++i) *(typename hwsim_piece<ALIGN>::type*)(to + i * ALIGN) = held[i];
  }
};

/* Closes the group of copies of one stage. */
static __device__ __forceinline__ void hwsim_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Waits until at most PENDING groups are under way. */
template <int PENDING> static __device__ __forceinline__ void hwsim_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

/* Eight rows of 16 bytes each, four or two times: lanes 8 m .. 8 m + 7 name the rows of matrix m. */
static __device__ __forceinline__ void hwsim_load4(unsigned* r, unsigned place) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(place) : "memory");
}

static __device__ __forceinline__ void hwsim_load2(unsigned* r, unsigned place) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1]) : "r"(place) : "memory");
}

/* 16 x 8 accumulators += 16 x 32 codes times 32 x 8 codes. Turing multiplies 8 x 16 by 16 x 8 at once. */
template <bool SIGNED> static __device__ __forceinline__ void hwsim_mma(int* c, const unsigned* a, const unsigned* b) {
#if __CUDA_ARCH__ >= 800
  if constexpr (SIGNED) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#else
#pragma unroll
  for (int i = 0; i < 4; ++i) { /* rows 0..7 and 8..15, K 0..15 and 16..31: the registers of the larger tile */
    int* part = c + 2 * (i % 2);
    if constexpr (SIGNED) {
      asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                   : "+r"(part[0]), "+r"(part[1]) : "r"(a[i]), "r"(b[i / 2]));
    } else {
      asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                   : "+r"(part[0]), "+r"(part[1]) : "r"(a[i]), "r"(b[i / 2]));
    }
  }
#endif
}

/* The same with 4 bits: 16 x 64 codes times 64 x 8 codes. */
static __device__ __forceinline__ void hwsim_mma_nibbles(int* c, const unsigned* a, const unsigned* b) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k64.row.col.s32.u4.s4.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    int* part = c + 2 * (i % 2);
    asm volatile("mma.sync.aligned.m8n8k32.row.col.s32.u4.s4.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+r"(part[0]), "+r"(part[1]) : "r"(a[i]), "r"(b[i / 2]));
  }
#endif
}
