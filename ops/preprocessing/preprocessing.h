// The kernels of preprocess.py and the other data tools: a plain C interface without TensorFlow and
// Python.
//
// The caller owns every array. The functions keep no state and are thread-safe.
#ifndef DLRM_OPS_PREPROCESSING_PREPROCESSING_H_
#define DLRM_OPS_PREPROCESSING_PREPROCESSING_H_

#include <cstdint>

#define DLRM_EXPORT extern "C" __attribute__((visibility("default")))

// Incremented whenever a function below changes, so that Python rejects older libraries.
DLRM_EXPORT int32_t dlrm_preprocessing_version();

// Returns the number of line feeds in text[0, size).
DLRM_EXPORT int64_t dlrm_count_lines(const uint8_t* text, int64_t size);

// Decodes the lines of text[0, size) that end in LF; reads no byte outside of it.
//
// Valid lines become rows, in order: label [stride], dense [13, stride] (0 where missing), their
// presence as bytes 0 or 1, values [26, stride] (0 where missing), their presence. A valid line has
// at least 41 bytes, so that stride = size / 41 is large enough. Elements after the last row are
// not written. Malformed lines are listed in bad [lines, 3]: line number from 0, first byte,
// position of the LF.
//
// Returns the number of rows, or -1 if memory ran out. Sets *bad_lines to the number of malformed
// lines.
DLRM_EXPORT int64_t dlrm_decode_lines(const uint8_t* text, int64_t size, int64_t stride,
                                      int32_t* label, int32_t* dense, uint8_t* dense_present,
                                      uint32_t* values, uint8_t* present, int64_t* bad,
                                      int64_t* bad_lines);

// Finds the ids of values[0, n) in a table with `slots` home slots, which ends in an empty slot.
// Bit first_bit + i of validity (null: all ones) is 0 if values[i] is missing. If max_rows is not
// 0, values are reduced modulo max_rows, and a missing value is value 0; otherwise it has no id.
//
// Writes ids[0, n), with 0 for values without an id, and returns the number of these.
DLRM_EXPORT int64_t dlrm_find_ids(const uint32_t* values, const uint8_t* validity,
                                  int64_t first_bit, int64_t n, uint32_t max_rows,
                                  const uint64_t* table, int64_t slots, int32_t* ids);

// Adds 1 to counters[values[i] % max_rows] for each i in [0, n). A missing value (see validity
// above) is value 0.
DLRM_EXPORT void dlrm_count_values(const uint32_t* values, const uint8_t* validity,
                                   int64_t first_bit, int64_t n, uint32_t max_rows,
                                   int64_t* counters);

// Counts values in a hash table of `slots` slots: value in the upper half, count in the lower half,
// 0 in empty slots. *entries slots are in use, and at most `most` (less than slots) may be. Missing
// values are not counted.
//
// Returns the number of counted values: less than n if the next one needs more than `most` entries;
// or -1 if a count exceeds 32 bits.
DLRM_EXPORT int64_t dlrm_count_hashed(const uint32_t* values, const uint8_t* validity,
                                      int64_t first_bit, int64_t n, uint64_t* table, int64_t slots,
                                      int64_t most, int64_t* entries);

// Copies the entries of such a table to a larger, empty one.
DLRM_EXPORT void dlrm_rehash(const uint64_t* table, int64_t slots, uint64_t* larger,
                             int64_t larger_slots);

// Transposes fields [40, rows] to records [rows, 40].
DLRM_EXPORT void dlrm_to_records(const int32_t* fields, int64_t rows, int32_t* records);

// Copies field f (sizes[f] bytes at byte offsets[f]) of each of `rows` records of `stride` bytes to
// columns[f] [rows, sizes[f]].
DLRM_EXPORT void dlrm_split_records(const uint8_t* records, int64_t rows, int64_t stride,
                                    int64_t fields, const int64_t* offsets, const int64_t* sizes,
                                    uint8_t* const* columns);

// Ids of some columns: `width` adjacent ids in each row, rows at any distance from each other.
struct DlrmIdBlock {
  const void* source;
  void* target;
  int64_t source_stride;  // bytes from one row to the next
  int64_t target_stride;
  int64_t width;
  // NumPy's characters: b, h and i for signed integers of 1, 2 and 4 bytes, B (only of a source)
  // for an unsigned byte.
  int64_t source_type;
  int64_t target_type;
};

// Copies `rows` rows of each of `count` blocks, whose targets do not overlap. Bits that a target's
// type does not hold are dropped.
DLRM_EXPORT void dlrm_copy_ids(const DlrmIdBlock* blocks, int64_t count, int64_t rows);

// Writes found[i] = table[counts[i]] for each i in [0, n), or table[0] if counts[i] is not in
// [0, size); size > 0. Returns how often that is the case.
DLRM_EXPORT int64_t dlrm_look_up(const int32_t* counts, int64_t n, const uint16_t* table,
                                 uint32_t size, uint16_t* found);

// Converts n finite float16 to float32.
DLRM_EXPORT void dlrm_halves_to_floats(const uint16_t* halves, int64_t n, float* floats);

#endif  // DLRM_OPS_PREPROCESSING_PREPROCESSING_H_
