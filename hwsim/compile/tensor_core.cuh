/* Main loop of a product on tensor cores (cuda_tensor_core.py says where the tile of a block lies).

   Weights lie as [panel][tap][block of K][vector][32 bytes]; a byte holds 1, 2 or 4 codes, those of step s (32
   codes of K) in its bits s * BITS and up. A row of activations is RUN consecutive bytes at every tap. Both come into
   shared memory a stage at a time, while the stages before are multiplied. Rows past the last are the last one again;
   panels past the last and activations past RUN are filled with zeros; up to ALIGN - 1 bytes past RUN are read as they
   lie, for the weights there are zeros and every buffer has bytes behind its end.

   Every row in shared memory has 32, 64 or 128 bytes in chunks of 16; chunks are permuted among the rows of
   128 bytes so that the eight rows that ldmatrix reads at once lie in different banks. All that depends on the thread
   alone is computed before the loop: a turn of it is ldmatrix, mma, copies and little else. */

struct hwsim_unsigned { static constexpr int kind = 0; };  /* u8 x s8 */
struct hwsim_signed { static constexpr int kind = 1; };    /* s8 x s8 */
struct hwsim_nibble { static constexpr int kind = 2; };    /* codes up to 15 in bytes, weights of 4 bits: u4 x s4 */

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
  static constexpr int TAPS = TAPS0 * TAPS1, TURNS = TAPS * CHUNKS;
  static constexpr int ROW = 32 * STEPS * CHUNK, COLUMN = 32 * CHUNK; /* bytes of a stage */
  static constexpr bool SIGNED = KIND::kind == 1, NIBBLES = KIND::kind == 2 && HWSIM_INT4;
  static_assert(KIND::kind != 2 || BITS == 4, "nibbles are multiplied by weights of 4 bits");
};

/* Where a row of BYTES keeps its chunk 0; chunk c lies at c ^ this. */
template <int BYTES> static __device__ __forceinline__ int hwsim_flip(int row) { return row % 8 / (128 / BYTES); }

/* Step `step` of packed weights, its codes in the high bits of every byte. */
template <int BITS> static __device__ __forceinline__ unsigned hwsim_unpack(unsigned packed, int step) {
  constexpr unsigned HIGH = 0xFFu & ~((1u << (8 - BITS)) - 1u);
  return BITS == 8 ? packed : (packed << (8 - BITS * (step + 1))) & (HIGH * 0x01010101u);
}

/* The copies of one thread: which chunks of a stage it fetches, and how far along K it is. */
template <class T, class D> struct hwsim_fetch {
  static constexpr int ROW_CHUNKS = D::ROW / 16, ROWS_AT_ONCE = T::THREADS / ROW_CHUNKS;
  static constexpr int ROW_COPIES = (T::ROWS + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
  static constexpr int PANEL_CHUNKS = D::CHUNK * T::VECTORS * 2, ALL = T::PANELS * PANEL_CHUNKS;
  static constexpr int COLUMN_COPIES = (ALL + T::THREADS - 1) / T::THREADS;
  static constexpr int BLOCK_BYTES = T::VECTORS * 32;
  static_assert(ROWS_AT_ONCE % 8 == 0, "all rows of a thread have their chunks in the same order");
  hwsim_copy<D::ALIGN> rows[ROW_COPIES];
  hwsim_copy<16> columns[COLUMN_COPIES];
  const unsigned char *activations, *weights;
  int row_from[ROW_COPIES], row_to, part; /* part: where in its row the thread's chunk begins */
  int column_from[COLUMN_COPIES], column_to[COLUMN_COPIES], column_block[COLUMN_COPIES];
  int chunk, tap; /* turns within the tap, taps within the inner loop */

  __device__ __forceinline__ hwsim_fetch(const unsigned char* a, const unsigned char* w, int panels, const int* starts)
      : activations(a), weights(w), chunk(0), tap(0) {
    const int thread = threadIdx.x, row = thread / ROW_CHUNKS;
    part = thread % ROW_CHUNKS * 16;
    row_to = row * D::ROW + (part ^ hwsim_flip<D::ROW>(row) * 16);
#pragma unroll
    for (int i = 0; i < ROW_COPIES; ++i)
      if (T::ROWS % ROWS_AT_ONCE == 0 || row + i * ROWS_AT_ONCE < T::ROWS) row_from[i] = starts[row + i * ROWS_AT_ONCE] + part;
#pragma unroll
    for (int i = 0; i < COLUMN_COPIES; ++i) {
      const int at = thread + i * T::THREADS, panel = at / PANEL_CHUNKS, within = at % PANEL_CHUNKS;
      const int half = within % 2, vector = within / 2 % T::VECTORS, block = within / 2 / T::VECTORS;
      const int column = (panel / 4 * T::TILES + vector / 2) * 8 + panel % 4 * 2 + vector % 2;
      column_from[i] = panel * D::TAPS * D::BLOCKS * BLOCK_BYTES + within * 16;
      column_to[i] = T::ROWS * D::ROW + column * D::COLUMN + (((block * 2 + half) ^ hwsim_flip<D::COLUMN>(column)) * 16);
      column_block[i] = panel < panels && at < ALL ? block : D::BLOCKS; /* never below the number of blocks */
      if (at >= ALL) column_to[i] = -1;
    }
  }

  /* Starts to fetch the next stage to `place`, an address in shared memory; `end` takes the same as a pointer. */
  __device__ __forceinline__ void begin(unsigned place) {
#pragma unroll
    for (int i = 0; i < ROW_COPIES; ++i)
      if (T::ROWS % ROWS_AT_ONCE == 0 || row_to + i * ROWS_AT_ONCE * D::ROW < T::ROWS * D::ROW)
        rows[i].begin(place + row_to + i * ROWS_AT_ONCE * D::ROW, activations + row_from[i],
                      D::RUN % D::ROW == 0 ? 16 : D::RUN - chunk * D::ROW - part);
#pragma unroll
    for (int i = 0; i < COLUMN_COPIES; ++i)
      if (ALL % T::THREADS == 0 || column_to[i] >= 0) {
        const int left = D::BLOCKS % D::CHUNK == 0 ? D::BLOCKS : D::BLOCKS - chunk * D::CHUNK;
        columns[i].begin(place + column_to[i], weights + column_from[i], column_block[i] < left ? 16 : 0);
      }
    activations += D::ROW;
    weights += D::CHUNK * BLOCK_BYTES;
    ++chunk;
    if (D::TAPS > 1 && chunk == D::CHUNKS) {
      chunk = 0;
      activations += D::STRIDE1 - D::CHUNKS * D::ROW;
      weights -= (D::CHUNKS * D::CHUNK - D::BLOCKS) * BLOCK_BYTES;
      if (++tap == D::TAPS1) {
        tap = 0;
        activations += D::STRIDE0 - D::TAPS1 * D::STRIDE1;
      }
    }
  }

  __device__ __forceinline__ void end(unsigned char* stage) {
#pragma unroll
    for (int i = 0; i < ROW_COPIES; ++i)
      if (T::ROWS % ROWS_AT_ONCE == 0 || row_to + i * ROWS_AT_ONCE * D::ROW < T::ROWS * D::ROW)
        rows[i].end(stage + row_to + i * ROWS_AT_ONCE * D::ROW);
#pragma unroll
    for (int i = 0; i < COLUMN_COPIES; ++i)
      if (ALL % T::THREADS == 0 || column_to[i] >= 0) columns[i].end(stage + column_to[i]);
  }
};

/* Products of one stage into the accumulators of a warp. */
template <class T, class D> struct hwsim_multiply {
  unsigned row_at, row_flip, column_at, column_flip;

  __device__ __forceinline__ hwsim_multiply() {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, matrix = lane / 8, line = lane % 8;
    row_at = (warp / T::COLUMN_WARPS * (16 * T::ROW_TILES) + matrix % 2 * 8 + line) * D::ROW;
    row_flip = (matrix / 2 ^ hwsim_flip<D::ROW>(line)) * 16;
    column_at = T::ROWS * D::ROW + (warp % T::COLUMN_WARPS * (8 * T::TILES) + matrix / 2 * 8 + line) * D::COLUMN;
    column_flip = (matrix % 2 ^ hwsim_flip<D::COLUMN>(line)) * 16;
  }

  __device__ __forceinline__ void stage(int (*sums)[T::TILES][4], unsigned place) const {
#pragma unroll
    for (int block = 0; block < D::CHUNK; ++block) {
      const unsigned column = place + column_at + (block * 32 ^ column_flip);
      unsigned w[2 * T::TILES];
#pragma unroll
      for (int j = 0; j + 1 < T::TILES; j += 2) hwsim_load4(w + 2 * j, column + j * 8 * D::COLUMN);
      if constexpr (T::TILES % 2 != 0) hwsim_load2(w + 2 * (T::TILES - 1), column + (T::TILES - 1) * 8 * D::COLUMN);
#pragma unroll
      for (int i = 0; i < T::ROW_TILES; ++i) {
        unsigned a[D::STEPS][4];
#pragma unroll
        for (int step = 0; step < D::STEPS; ++step)
          hwsim_load4(a[step], place + row_at + ((block * D::STEPS + step) * 32 ^ row_flip) + i * 16 * D::ROW);
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
};

/* All of K for the tile of a block. Row i of a thread's accumulators is row lane / 4 + 8 i of its warp; they are
   2 ** (8 - BITS) too large, as on every machine (product.py). `panels` are left from the first of the tile on. */
template <class T, class D, int STAGES>
static __device__ __forceinline__ int hwsim_tensor_core(const void* activations, const void* weights, int offset,
                                                        int panels, const int* starts, void* shared, int* acc) {
  constexpr int STAGE = T::ROWS * D::ROW + T::COLUMNS * D::COLUMN, LAST = (STAGES - 1) * STAGE;
  unsigned char* stages = (unsigned char*)shared;
  const unsigned place = (unsigned)__cvta_generic_to_shared(shared);
  int sums[T::ROW_TILES][T::TILES][4] = {};
  const hwsim_multiply<T, D> multiply;
  __syncthreads(); /* the starts of the rows are written */
  hwsim_fetch<T, D> fetch((const unsigned char*)activations, (const unsigned char*)weights + offset, panels, starts);
#pragma unroll
  for (int turn = 0; turn < STAGES - 1; ++turn) {
    if (turn < D::TURNS) {
      fetch.begin(place + turn * STAGE);
      fetch.end(stages + turn * STAGE);
    }
    hwsim_commit();
  }
  int reading = 0, writing = LAST;
  for (int turn = 0; turn < D::TURNS; ++turn) {
    hwsim_wait<STAGES - 2>();
    __syncthreads(); /* this stage has come, and the one before is read: its place is free */
    const bool more = turn + STAGES - 1 < D::TURNS;
    if (more) fetch.begin(place + writing);
    hwsim_commit();
    multiply.stage(sums, place + reading);
    if (more) fetch.end(stages + writing);
    reading = reading == LAST ? 0 : reading + STAGE;
    writing = writing == LAST ? 0 : writing + STAGE;
  }
  constexpr int SHIFT = D::NIBBLES ? 4 : 0;
#pragma unroll
  for (int i = 0; i < 2 * T::ROW_TILES; ++i)
#pragma unroll
    for (int v = 0; v < T::VECTORS; ++v)
      acc[i * T::VECTORS + v] = (int)((unsigned)sums[i / 2][v / 2][i % 2 * 2 + v % 2] << SHIFT);
  return 0;
}
