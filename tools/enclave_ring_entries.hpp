// The entries of an io_uring as boundary-safe types: the kernel's own structs hold unions, which
// cannot be checked.
#pragma once

#include <linux/io_uring.h>

#include <cstddef>
#include <cstdint>

#include "exclave/access.hpp"

namespace exclave::tools {

// One request. Every byte crosses, so every byte is a field.
struct SubmissionEntry {
  std::uint8_t opcode = 0;
  std::uint8_t flags = 0;
  std::uint16_t priority = 0;
  std::int32_t file = 0;
  std::uint64_t offset = 0;
  std::uint64_t address = 0;
  std::uint32_t size_bytes = 0;
  std::uint32_t operation_flags = 0;
  std::uint64_t user_data = 0;
  std::uint16_t buffer_index = 0;
  std::uint16_t personality = 0;
  std::uint32_t unused = 0;
  std::uint64_t unused2[2] = {};
};

struct CompletionEntry {
  std::uint64_t user_data = 0;
  std::int32_t result = 0;
  std::uint32_t flags = 0;
};

static_assert(sizeof(SubmissionEntry) == sizeof(io_uring_sqe));
static_assert(offsetof(SubmissionEntry, file) == offsetof(io_uring_sqe, fd));
static_assert(offsetof(SubmissionEntry, offset) == offsetof(io_uring_sqe, off));
static_assert(offsetof(SubmissionEntry, address) == offsetof(io_uring_sqe, addr));
static_assert(offsetof(SubmissionEntry, size_bytes) == offsetof(io_uring_sqe, len));
static_assert(offsetof(SubmissionEntry, user_data) == offsetof(io_uring_sqe, user_data));
static_assert(offsetof(SubmissionEntry, buffer_index) == offsetof(io_uring_sqe, buf_index));
static_assert(sizeof(CompletionEntry) == sizeof(io_uring_cqe));
static_assert(offsetof(CompletionEntry, result) == offsetof(io_uring_cqe, res));

}  // namespace exclave::tools

EXCLAVE_BOUNDARY_SAFE(exclave::tools::SubmissionEntry, opcode, flags, priority, file, offset,
                      address, size_bytes, operation_flags, user_data, buffer_index, personality,
                      unused, unused2);
EXCLAVE_BOUNDARY_SAFE(exclave::tools::CompletionEntry, user_data, result, flags);
