/* Main loop of a product on tensor cores (cuda_tensor_core.py says where the tile of a block lies).

   Weights lie as [panel][tap][block of K][vector][32 bytes]; a byte holds 1, 2 or 4 codes, those of step s (32
   codes of K) in its bits s * BITS and up. A row of activations is RUN consecutive bytes at every tap. Both come into
   shared memory a stage at a time, while the stages before are multiplied. What lies outside (rows past the last,
   panels past the last, K past RUN) is filled with zeros.

   Every row in shared memory has 32, 64 or 128 bytes in chunks of 16; chunks are permuted among the rows of
   128 bytes so that the eight rows that ldmatrix reads at once lie in different banks. */

struct hwsim_unsigned { static constexpr int kind = 0; };  /* u8 x s8 */
struct hwsim_signed { static constexpr int kind = 1; };    /* s8 x s8 */
struct hwsim_nibble { static constexpr int kind = 2; };    /* codes up to 15 in bytes, weights of 4 bits: u4 x s4 */

/* Sub-byte instructions are emulated from Hopper on: there weights are unpacked to bytes instead. */
#if __CUDA_ARCH__ >= 900
#define HWSIM_INT4 false
#else
#define HWSIM_INT4 true
#endif

template <int ROW_WARPS_, int COLUMN_WARPS_, int ROW_TILES_, int VECTORS_> struct hwsim_tile {
  static constexpr int ROW_WARPS = ROW_WARPS_, COLUMN_WARPS = COLUMN_WARPS_, ROW_TILES = ROW_TILES_, VECTORS = VECTORS_;
  static constexpr int THREADS = 32 * ROW_WARPS * COLUMN_WARPS, ROWS = 16 * ROW_TILES * ROW_WARPS;
  static constexpr int PANELS = 4 * COLUMN_WARPS, TILES = (VECTORS + 1) / 2, COLUMNS = 8 * TILES * COLUMN_WARPS;
};

template <class KIND, int BITS_, int CHUNK_, int RUN_, int ALIGN_, int TAPS0, int STRIDE0_, int TAPS1_, int STRIDE1_>
struct hwsim_depth {
  static constexpr int BITS = BITS_, CHUNK = CHUNK_, RUN = RUN_, ALIGN = ALIGN_, STEPS = 8 / BITS;
  static constexpr int STRIDE0 = STRIDE0_, TAPS1 = TAPS1_, STRIDE1 = STRIDE1_;
  static constexpr int BLOCKS = (RUN + 32 * STEPS - 1) / (32 * STEPS), CHUNKS = (BLOCKS + CHUNK - 1) / CHUNK;
  static constexpr int TURNS = TAPS0 * TAPS1 * CHUNKS, TAPS = TAPS0 * TAPS1;
  static constexpr int ROW = 32 * STEPS * CHUNK, COLUMN = 32 * CHUNK; /* bytes of a stage */
  static constexpr bool SIGNED = KIND::kind == 1, NIBBLES = KIND::kind == 2 && HWSIM_INT4;
  static_assert(KIND::kind != 2 || BITS == 4, "nibbles are multiplied by weights of 4 bits");
};

/* Place of a chunk of 16 bytes among rows of BYTES. */
template <int BYTES> static __device__ __forceinline__ int hwsim_swizzle(int row, int chunk) {
  constexpr int CHUNKS = BYTES / 16, TOGETHER = 8 / CHUNKS;
  return row * BYTES + ((chunk ^ (row / TOGETHER % CHUNKS)) * 16);
}

/* Bytes [0, valid) of four, zeros after them; without alignment byte by byte. */
template <int ALIGN> static __device__ __forceinline__ unsigned hwsim_part(const unsigned char* from, int valid) {
  if (ALIGN >= 4 && valid >= 4) return *(const unsigned*)from;
  unsigned word = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < valid) word |= (unsigned)from[i] << (8 * i);
  return word;
}

/* 16 bytes into shared memory, zeros from `valid` on; from Ampere on in the background. */
template <int ALIGN>
static __device__ __forceinline__ void hwsim_copy(unsigned char* to, const unsigned char* from, int valid) {
#if __CUDA_ARCH__ >= 800
  if constexpr (ALIGN >= 4) {
    unsigned place = (unsigned)__cvta_generic_to_shared(to);
    if constexpr (ALIGN == 16) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place), "l"(from), "r"(valid) : "memory");
    } else {
#pragma unroll
      for (int at = 0; at < 16; at += ALIGN) {
        int part = valid - at < 0 ? 0 : valid - at > ALIGN ? ALIGN : valid - at;
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(place + at), "l"(from + at), "n"(ALIGN),
                     "r"(part) : "memory");
      }
    }
    return;
  }
#endif
  int4 words;
  if (ALIGN == 16 && valid == 16) {
    words = *(const int4*)from;
  } else {
    words.x = (int)hwsim_part<ALIGN>(from, valid);
    words.y = (int)hwsim_part<ALIGN>(from + 4, valid - 4);
    words.z = (int)hwsim_part<ALIGN>(from + 8, valid - 8);
    words.w = (int)hwsim_part<ALIGN>(from + 12, valid - 12);
  }
  *(int4*)to = words;
}

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

static __device__ __forceinline__ void hwsim_load4(unsigned* r, const unsigned char* row) {
  unsigned place = (unsigned)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(place) : "memory");
}

static __device__ __forceinline__ void hwsim_load2(unsigned* r, const unsigned char* row) {
  unsigned place = (unsigned)__cvta_generic_to_shared(row);
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

/* Step `step` of packed weights, its codes in the high bits of every byte. */
template <int BITS> static __device__ __forceinline__ unsigned hwsim_unpack(unsigned packed, int step) {
  constexpr unsigned HIGH = 0xFFu & ~((1u << (8 - BITS)) - 1u);
  return BITS == 8 ? packed : (packed << (8 - BITS * (step + 1))) & (HIGH * 0x01010101u);
}

/* Starts the copies of one stage: turn = tap * CHUNKS + chunk of K. */
template <class T, class D>
static __device__ __forceinline__ void hwsim_stage(unsigned char* stage, const unsigned char* activations,
                                                   const unsigned char* weights, int panels, const int* starts, int turn) {
  const int tap = turn / D::CHUNKS, chunk = turn % D::CHUNKS;
  const int shift = tap / D::TAPS1 * D::STRIDE0 + tap % D::TAPS1 * D::STRIDE1 + chunk * D::ROW;
  const int left = D::RUN - chunk * D::ROW;
  constexpr int ROW_CHUNKS = D::ROW / 16, PANEL_CHUNKS = D::CHUNK * T::VECTORS * 2;
  for (int i = threadIdx.x; i < T::ROWS * ROW_CHUNKS; i += T::THREADS) {
    const int row = i / ROW_CHUNKS, part = i % ROW_CHUNKS, start = starts[row], rest = left - part * 16;
    const int valid = start < 0 || rest < 0 ? 0 : rest > 16 ? 16 : rest;
    const unsigned char* from = activations + (valid ? start + shift + part * 16 : 0);
    hwsim_copy<D::ALIGN>(stage + hwsim_swizzle<D::ROW>(row, part), from, valid);
  }
  unsigned char* columns = stage + T::ROWS * D::ROW;
  for (int i = threadIdx.x; i < T::PANELS * PANEL_CHUNKS; i += T::THREADS) {
    const int panel = i / PANEL_CHUNKS, within = i % PANEL_CHUNKS;
    const int half = within % 2, vector = within / 2 % T::VECTORS, block = within / 2 / T::VECTORS;
    const bool inside = panel < panels && chunk * D::CHUNK + block < D::BLOCKS;
    const int from = ((panel * D::TAPS + tap) * D::BLOCKS + chunk * D::CHUNK) * T::VECTORS * 32 + within * 16;
    const int column = (panel / 4 * T::TILES + vector / 2) * 8 + panel % 4 * 2 + vector % 2;
    hwsim_copy<16>(columns + hwsim_swizzle<D::COLUMN>(column, block * 2 + half), weights + (inside ? from : 0), inside ? 16 : 0);
  }
}

/* Products of one stage into the accumulators of a warp. */
template <class T, class D>
static __device__ __forceinline__ void hwsim_multiply(int (*sums)[T::TILES][4], const unsigned char* stage) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, matrix = lane / 8, line = lane % 8;
  const int row = warp / T::COLUMN_WARPS * (16 * T::ROW_TILES) + matrix % 2 * 8 + line;
  const int column = warp % T::COLUMN_WARPS * (8 * T::TILES) + line;
  const unsigned char* columns = stage + T::ROWS * D::ROW;
#pragma unroll
  for (int block = 0; block < D::CHUNK; ++block) {
    unsigned w[2 * T::TILES];
#pragma unroll
    for (int j = 0; j + 1 < T::TILES; j += 2)
      hwsim_load4(w + 2 * j, columns + hwsim_swizzle<D::COLUMN>(column + (j + matrix / 2) * 8, block * 2 + matrix % 2));
    if constexpr (T::TILES % 2 != 0)
      hwsim_load2(w + 2 * (T::TILES - 1), columns + hwsim_swizzle<D::COLUMN>(column + (T::TILES - 1) * 8, block * 2 + matrix % 2));
#pragma unroll
    for (int i = 0; i < T::ROW_TILES; ++i) {
      unsigned a[D::STEPS][4];
#pragma unroll
      for (int step = 0; step < D::STEPS; ++step)
        hwsim_load4(a[step], stage + hwsim_swizzle<D::ROW>(row + i * 16, (block * D::STEPS + step) * 2 + matrix / 2));
      if constexpr (D::NIBBLES) { /* even places of K from the first step, odd ones from the second, as in the weights */
#pragma unroll
        for (int r = 0; r < 4; ++r) a[0][r] = (a[0][r] & 0x0F0F0F0Fu) | ((a[1][r] << 4) & 0xF0F0F0F0u);
#pragma unroll
        for (int j = 0; j < T::TILES; ++j) hwsim_mma_nibbles(sums[i][j], a[0], w + 2 * j);
      } else {
#pragma unroll
        for (int step = 0; step < D::STEPS; ++step)
#pragma unroll
          for (int j = 0; j < T::TILES; ++j) {
            const unsigned u[2] = {hwsim_unpack<D::BITS>(w[2 * j], step), hwsim_unpack<D::BITS>(w[2 * j + 1], step)};
            hwsim_mma<D::SIGNED>(sums[i][j], a[step], u);
          }
      }
    }
  }
}

/* All of K for the tile of a block. Row i of a thread's accumulators is row lane / 4 + 8 i of its warp; they are
   2 ** (8 - BITS) too large, as on every machine (product.py). `panels` are left from the first of the tile on. */
template <class T, class D, int STAGES>
static __device__ __forceinline__ int hwsim_tensor_core(const void* activations, const void* weights, int offset,
                                                        int panels, const int* starts, void* shared, int* acc) {
  constexpr int STAGE = T::ROWS * D::ROW + T::COLUMNS * D::COLUMN;
  const unsigned char* a = (const unsigned char*)activations;
  const unsigned char* w = (const unsigned char*)weights + offset;
  unsigned char* stages = (unsigned char*)shared;
  int sums[T::ROW_TILES][T::TILES][4] = {};
  __syncthreads(); /* the starts of the rows are written */
#pragma unroll
  for (int turn = 0; turn < STAGES - 1; ++turn) {
    if (turn < D::TURNS) hwsim_stage<T, D>(stages + turn * STAGE, a, w, panels, starts, turn);
    hwsim_commit();
  }
  for (int turn = 0; turn < D::TURNS; ++turn) {
    hwsim_wait<STAGES - 2>();
    __syncthreads(); /* this stage has come, and the one before is read: its place is free */
    const int next = turn + STAGES - 1;
    if (next < D::TURNS) hwsim_stage<T, D>(stages + next % STAGES * STAGE, a, w, panels, starts, next);
    hwsim_commit();
    hwsim_multiply<T, D>(sums, stages + turn % STAGES * STAGE);
  }
  constexpr int SHIFT = D::NIBBLES ? 4 : 0;
#pragma unroll
  for (int i = 0; i < 2 * T::ROW_TILES; ++i)
#pragma unroll
    for (int v = 0; v < T::VECTORS; ++v)
      acc[i * T::VECTORS + v] = (int)((unsigned)sums[i / 2][v / 2][i % 2 * 2 + v % 2] << SHIFT);
  return 0;
}
