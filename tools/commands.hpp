// What `exclave seal`, `unseal` and `keygen` do, between the parsed command line and the exit code.
#pragma once

#include <cstdint>
#include <string>

#include "tools/enclave_session.hpp"

namespace exclave::tools {

struct CommandOptions {
  std::string input;
  std::string output;
  std::string key_file;  // empty: default_key_file()
  bool new_key = false;  // make the key file if it is missing
  std::string report;    // empty: no page
  bool hostile = false;
  bool force = false;
  Engine engine = Engine::kAuto;
  std::uint32_t depth = 8;
  std::uint32_t block_bytes = 1U << 20;  // seal only
};

// The report goes to stdout. Each throws Failure for what main() prints; OUTPUT stands under its
// name only when nothing was thrown, or when only the page could not be written.
void run_seal(const CommandOptions& given);
void run_unseal(const CommandOptions& given);
void run_keygen(const std::string& key_file);

}  // namespace exclave::tools
