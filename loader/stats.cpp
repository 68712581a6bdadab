#include "loader/stats.hpp"

#include <atomic>

#include "loader/linux_abi.hpp"
#include "loader/process.hpp"
#include "loader/text.hpp"

namespace exclave::loader {
namespace {

struct Counts {
  std::atomic<std::uint64_t> by_route[5];
};
constinit Counts g_counts{};

std::uint64_t count(Route route) noexcept {
  return g_counts.by_route[static_cast<int>(route)].load(std::memory_order_relaxed);
}

}  // namespace

void count_call(Route route) noexcept {
  g_counts.by_route[static_cast<int>(route)].fetch_add(1, std::memory_order_relaxed);
}

void forget_counts() noexcept {
  for (auto& count : g_counts.by_route) count.store(0, std::memory_order_relaxed);
}

int output_descriptor() noexcept {
  const Options& options = g_process.options;
  FileStatus status{};
  const bool same = !failed(system_call(__NR_fstat, options.output, &status)) &&
                    status.device == options.output_device && status.inode == options.output_inode;
  return same ? options.output : 2;
}

void print_stats() noexcept {
  const EnclaveManager::Statistics inside = g_process.inside->statistics();
  const Statistics outside = g_process.allocator->statistics();
  Line<768> line;
  line.text("exclave: ").decimal(g_process.pid).text(": calls: ");
  line.unsigned_decimal(count(Route::kInside)).text(" inside, ");
  line.unsigned_decimal(count(Route::kOutside)).text(" outside, ");
  line.unsigned_decimal(count(Route::kSplit)).text(" split, ");
  line.unsigned_decimal(count(Route::kRefused)).text(" refused; inside: ");
  line.unsigned_decimal(inside.areas).text(" areas, ");
  line.unsigned_decimal(inside.mapped_bytes >> 10).text(" KiB, peak ");
  line.unsigned_decimal(inside.peak_bytes >> 10).text(" KiB, ");
  line.unsigned_decimal(g_process.pages.shared_maps()).text(" shared maps; outside: ");
  line.unsigned_decimal(outside.regions).text(" regions, ");
  line.unsigned_decimal(outside.mapping_bytes >> 10).text(" KiB, ");
  line.unsigned_decimal(outside.host_map_calls).text(" device maps; books: ");
  line.unsigned_decimal((inside.trusted_bytes + outside.trusted_bytes) >> 10)
      .text(" KiB; lies refused: ");
  line.unsigned_decimal(outside.lies_refused).put('\n');
  line.write_to(output_descriptor());
}

}  // namespace exclave::loader
