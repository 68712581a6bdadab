// What a run has to tell, gathered while it goes; written as text and as a page.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "tools/enclave_attack_log.hpp"
#include "tools/enclave_session.hpp"
#include "tools/heap_map.hpp"
#include "tools/tamper_list.hpp"

namespace exclave::tools {

// One part of the work: seal, sync, verify, unseal.
struct PhaseFigures {
  struct Sample {
    double seconds = 0;  // since the phase began
    std::uint64_t bytes = 0;
  };
  std::string what;
  std::uint64_t bytes = 0;
  double seconds = 0;
  std::vector<Sample> samples;

  double bytes_per_second() const noexcept {
    return seconds > 0 ? static_cast<double>(bytes) / seconds : 0;
  }
};

struct RunReport {
  std::string command;  // "seal" or "unseal"
  std::string input;
  std::string output;
  std::uint64_t plaintext_bytes = 0;
  std::uint64_t sealed_bytes = 0;
  std::uint64_t blocks = 0;
  std::uint32_t block_bytes = 0;
  std::string digest;  // SHA-256 of the plaintext in hex; empty: not computed

  std::string engine;
  std::uint32_t depth = 0;
  std::vector<std::string> notes;

  bool hostile = false;
  std::uint64_t scribbled_bytes = 0;
  TamperList tampered;
  AttackLog attacks;

  std::vector<PhaseFigures> phases;
  std::vector<std::pair<std::string, std::uint64_t>> host_calls;
  std::uint64_t pool_blocks = 0;
  std::size_t staging_bytes = 0;
  HeapMap busy;
  HeapMap at_end;  // all blocks freed, nothing detached yet
  std::vector<EndingStep> ending;

  bool ending_as_it_should() const noexcept;
  std::uint64_t host_calls_total() const noexcept;
  std::uint64_t attacks_total() const noexcept { return attacks.total() + lies_refused(); }
  // Host replies that the library itself refused.
  std::uint64_t lies_refused() const noexcept { return at_end.statistics.lies_refused; }
};

// "1.21 GB/s", "312 KiB", "12,345".
std::string rate_text(double bytes_per_second);
std::string size_text(std::uint64_t bytes);
std::string count_text(std::uint64_t count);
std::string seconds_text(double seconds);

std::string text_report(const RunReport& report);
// One self-contained page.
std::string html_report(const RunReport& report);

}  // namespace exclave::tools
