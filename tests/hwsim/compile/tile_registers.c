/* The tile registers of AMX in C, for machines without them (Intel SDM, "TDPBUSD", "TILELOADD", "LDTILECFG"). */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct { uint8_t palette, start, reserved[14]; uint16_t bytes[16]; uint8_t rows[16]; } Config;
static _Thread_local Config config;
static _Thread_local uint8_t tile[8][16][64];
int products = 0;

/* Any use that a processor would refuse ends the process. */
static void shape(int t, int *rows, int *bytes) {
  if (config.palette != 1 || t > 7 || !config.rows[t] || !config.bytes[t]) abort();
  *rows = config.rows[t], *bytes = config.bytes[t];
}
int emulated_ldtilecfg(const void *from) {
  memcpy(&config, from, sizeof config);
  for (int t = 0; t < 16; ++t)
    if (config.rows[t] > 16 || config.bytes[t] > 64 || (t > 7 && (config.rows[t] || config.bytes[t]))) abort();
  memset(tile, 0, sizeof tile);
  return 0;
}
int emulated_tilerelease(void) { memset(&config, 0, sizeof config); return 0; }
int emulated_tilezero(int t) {
  int rows, bytes;
  shape(t, &rows, &bytes);
  memset(tile[t], 0, sizeof tile[t]);
  return 0;
}
int emulated_tileloadd64(int t, const char *from, int64_t pitch) {
  int rows, bytes;
  shape(t, &rows, &bytes);
  for (int r = 0; r < rows; ++r) memcpy(tile[t][r], from + r * pitch, bytes);
  return 0;
}
int emulated_tilestored64(int t, char *to, int64_t pitch) {
  int rows, bytes;
  shape(t, &rows, &bytes);
  for (int r = 0; r < rows; ++r) memcpy(to + r * pitch, tile[t][r], bytes);
  return 0;
}
int emulated_tdpbusd(int d, int a, int b) {
  int rows, bytes, depth, rest;
  shape(d, &rows, &bytes), shape(a, &rest, &depth);
  if (rest != rows) abort();
  ++products;
  for (int m = 0; m < rows; ++m)
    for (int n = 0; n < bytes / 4; ++n) {
      uint32_t sum;
      memcpy(&sum, &tile[d][m][4 * n], 4);
      for (int k = 0; k < depth / 4; ++k)
        for (int i = 0; i < 4; ++i) sum += (uint32_t)(tile[a][m][4 * k + i] * (int8_t)tile[b][k][4 * n + i]);
      memcpy(&tile[d][m][4 * n], &sum, 4);
    }
  return 0;
}
