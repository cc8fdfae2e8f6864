"""Columns of the tables of numbers that pass between Python and the compiled kernels."""

# Engines (machine.Engine).
E_KIND, E_ROWS, E_COLUMNS, E_DATAFLOW, E_TILE_M, E_TILE_N, E_TILE_K, E_PIPELINED, E_ARRAYS = range(9)
E_EFFICIENCY, E_STARTUP, E_UNROLLS_WINDOW, E_PER_OUTPUT, E_PER_INPUT = range(9, 14)
E_PADS_WINDOW, ENGINE_COLUMNS = range(14, 16)

# Memories (machine.Level).
L_CAPACITY, L_RATE, L_SHARED, L_PJ, L_LATENCY, L_WEIGHTS, L_ACTIVATIONS, L_BUFFER, L_BUFFER_SHARED = range(9)
# Where weights and activations have buffers of their own inside this memory: the size of the weight buffer, else 0.
L_WEIGHT_BUFFER, L_BURST, L_EXPOSED, LEVEL_COLUMNS = range(9, 13)
MAX_LEVELS = 9

# Shapes of products; the window is the kernel area, 0 for a product of two activations. Prepared elements of the
# inputs are those that no other layer leaves quantized.
D_BATCH, D_GROUPS, D_M, D_N, D_K, D_WINDOW, D_INPUTS, D_OUTPUTS, D_PREPARED, DIM_COLUMNS = range(10)

# Points: how a product is run. Homes are indices of memories, scales are bytes of scale a row and term, the start is in
# cycles, 0 where another operator's hides it.
P_DIMS, P_ENGINE, P_WAY, P_TERMS, P_INPUT_BITS, P_OUTPUT_BITS, P_WEIGHT_HOME, P_ACT_HOME = range(8)
P_SCALES, P_RESIDENT, P_LANES, P_START, POINT_COLUMNS = range(8, 13)
WAY_SINGLE, WAY_ROWS, WAY_TERMS = range(3)

# Terms of an expansion: output rows, groups, inner columns, stored bits, MACs a cycle, pJ a MAC.
T_N, T_GROUPS, T_K, T_BITS, T_RATE, T_PJ, TERM_COLUMNS = range(7)

# The stream of tiles of one unit: tiles, bytes moved, how often each operand moves, tile sizes.
S_TILES, S_INPUT, S_WEIGHT, S_OUTPUT, S_INPUT_EVERY, S_WEIGHT_EVERY, S_OUTPUT_EVERY = range(7)
S_M, S_N, S_K, STREAM_COLUMNS = range(7, 11)
STREAM_PARTS = 8

# Prices of points.
R_CYCLES, R_COMPUTE, R_MEMORY, R_FILL, R_FIXED, R_MAC_PJ, R_MEMORY_PJ, R_BOUND = range(8)
R_WEIGHT_BYTES, R_ACT_BYTES, R_UNITS, R_MACS, R_HOME, R_SPLIT, R_RUNNING, R_LAUNCH = range(8, 16)
R_STALL = 16  # a unit's cycles of its home memory's transfers that do not hide behind compute
SPLIT_NONE, SPLIT_INSTANCES, SPLIT_N, SPLIT_M = range(4)
R_STREAM = R_STALL + 1
R_LEVELS = R_STREAM + STREAM_COLUMNS
RESULT_COLUMNS = R_LEVELS + MAX_LEVELS
BOUND_COMPUTE, BOUND_LAUNCH = -1, -2
# Each order of an expansion alone on one unit.
O_CYCLES, O_PJ, ORDER_COLUMNS = range(3)

# Jobs of the cycle engine: a stream of tiles on one unit, within one step of one lane. Extra bytes are what the
# memories inside the home level carry, spread evenly over the tiles.
J_LANE, J_STEP, J_UNIT, J_COMPUTE, J_LAUNCH, J_HOME, J_TILES, J_INPUT, J_WEIGHT, J_OUTPUT = range(10)
J_INPUT_EVERY, J_WEIGHT_EVERY, J_OUTPUT_EVERY, J_EXTRA = range(10, 14)
JOB_COLUMNS = J_EXTRA + MAX_LEVELS

# What the cycle engine finds for a job: first request, start and end of compute, end of the last store.
X_REQUEST, X_START, X_COMPUTED, X_DONE, EVENT_COLUMNS = range(5)
