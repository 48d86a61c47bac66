// The kernels of preprocess.py and of the other data tools, called through a plain C interface: no
// TensorFlow, no Python.
//
// Every array belongs to the caller. The functions keep no state and may run on several threads.
#ifndef DLRM_OPS_PREPROCESSING_PREPROCESSING_H_
#define DLRM_OPS_PREPROCESSING_PREPROCESSING_H_

#include <cstdint>

#define DLRM_EXPORT extern "C" __attribute__((visibility("default")))

// Raised whenever a function below changes: a library built from older sources is not used.
DLRM_EXPORT int32_t dlrm_preprocessing_version();

// Returns how many line feeds text[0, size) holds.
DLRM_EXPORT int64_t dlrm_count_lines(const uint8_t* text, int64_t size);

// Decodes the lines of text[0, size) that end in LF; no byte outside of it is read.
//
// Good lines become rows, in order: label [stride], dense [13, stride] (0 where missing), their
// presence as bytes 0 or 1, values [26, stride] (0 where missing), their presence. A good line has
// 41 bytes at least, so stride = size / 41 is room enough; no element after the last row is
// written.
// Malformed lines go to bad [lines, 3]: number of the line from 0, its first byte, its LF.
//
// Returns the number of rows, or -1 if memory ran out; *bad_lines is the number of malformed lines.
DLRM_EXPORT int64_t dlrm_decode_lines(const uint8_t* text, int64_t size, int64_t stride,
                                      int32_t* label, int32_t* dense, uint8_t* dense_present,
                                      uint32_t* values, uint8_t* present, int64_t* bad,
                                      int64_t* bad_lines);

// Finds the ids of values[0, n) in a table with room for `slots` home slots, which ends in an empty
// slot. Bit first_bit + i of validity (null: all ones) tells whether values[i] is there. With
// max_rows, values are reduced modulo that and a missing one is value 0; without (0), it has no id.
//
// Writes ids[0, n), 0 for what has none, and returns how many that are.
DLRM_EXPORT int64_t dlrm_find_ids(const uint32_t* values, const uint8_t* validity,
                                  int64_t first_bit, int64_t n, uint32_t max_rows,
                                  const uint64_t* table, int64_t slots, int32_t* ids);

// Adds 1 to counters[values[i] % max_rows] for each i in [0, n). A missing value, by validity as
// above, is value 0.
DLRM_EXPORT void dlrm_count_values(const uint32_t* values, const uint8_t* validity,
                                   int64_t first_bit, int64_t n, uint32_t max_rows,
                                   int64_t* counters);

// Counts values in a hash table of `slots` entries, value in the upper half and count in the lower
// one, 0 where empty; *entries of them are in use, of which there may be `most`, less than slots. A
// missing value is not counted.
//
// Returns how many values were counted: fewer than n where the next one needs an entry more than
// there may be; or -1 if a count does not fit 32 bits.
DLRM_EXPORT int64_t dlrm_count_hashed(const uint32_t* values, const uint8_t* validity,
                                      int64_t first_bit, int64_t n, uint64_t* table, int64_t slots,
                                      int64_t most, int64_t* entries);

// Copies the entries of such a table to an empty one that is larger.
DLRM_EXPORT void dlrm_rehash(const uint64_t* table, int64_t slots, uint64_t* larger,
                             int64_t larger_slots);

// Writes records [rows, 40] of fields [40, rows].
DLRM_EXPORT void dlrm_to_records(const int32_t* fields, int64_t rows, int32_t* records);

// Copies field f, sizes[f] bytes at byte offsets[f] of each of `rows` records `stride` bytes apart,
// to columns[f] [rows, sizes[f]].
DLRM_EXPORT void dlrm_split_records(const uint8_t* records, int64_t rows, int64_t stride,
                                    int64_t fields, const int64_t* offsets, const int64_t* sizes,
                                    uint8_t* const* columns);

// Copies ids [rows, tables] to a column [rows] for each table, of signed integers of widths[t] =
// 1, 2 or 4 bytes, of which the lowest bits are kept.
DLRM_EXPORT void dlrm_narrow_ids(const int32_t* ids, int64_t rows, int64_t tables,
                                 const int64_t* widths, void* const* columns);

// The other way round.
DLRM_EXPORT void dlrm_widen_ids(const void* const* columns, const int64_t* widths, int64_t rows,
                                int64_t tables, int32_t* ids);

// Writes found[i] = table[counts[i]] for each i in [0, n), where counts[i] is in [0, size), which
// is not empty; table[0] elsewhere. Returns how many are elsewhere.
DLRM_EXPORT int64_t dlrm_look_up(const int32_t* counts, int64_t n, const uint16_t* table,
                                 uint32_t size, uint16_t* found);

// Converts n finite float16 to float32.
DLRM_EXPORT void dlrm_halves_to_floats(const uint16_t* halves, int64_t n, float* floats);

#endif  // DLRM_OPS_PREPROCESSING_PREPROCESSING_H_
