// Runs inputs of a fuzz target without libFuzzer, so that every compiler and preset can.
//   exclave_fuzz_X FILE-OR-FOLDER...   performs each input; stops at the first that fails
//   exclave_fuzz_X --print FILE        shows an input as C++
#include <algorithm>
#include <filesystem>

#include "fuzz/target.hpp"

int main(int argc, char** argv) {
  using namespace exclave::fuzz;
  serve_print(argc, argv);
  StopAtFailure::install();
  std::vector<std::string> files;
  for (int i = 1; i < argc; ++i) {
    std::error_code error;
    if (std::filesystem::is_directory(argv[i], error)) {
      for (const auto& entry : std::filesystem::directory_iterator(argv[i], error)) {
        if (entry.is_regular_file()) files.push_back(entry.path().string());
      }
    } else {
      files.emplace_back(argv[i]);
    }
    if (error) {
      std::cerr << argv[0] << ": " << argv[i] << ": " << error.message() << "\n";
      return 2;
    }
  }
  if (files.empty()) {
    std::cerr << argv[0] << ": no inputs; usage: FILE-OR-FOLDER..., or --print FILE\n";
    return 2;
  }
  std::sort(files.begin(), files.end());
  for (const std::string& name : files) {
    std::vector<std::uint8_t> bytes;
    if (!read_file(name, &bytes)) {
      std::cerr << argv[0] << ": cannot read " << name << "\n";
      return 2;
    }
    std::cerr << name << "\n";
    perform(Input(bytes.data(), bytes.size()));
  }
  std::cerr << files.size() << " inputs performed\n";
  return 0;
}
