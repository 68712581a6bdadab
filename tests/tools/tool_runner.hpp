// Runs the built `exclave` as its users do, in a folder that is empty at first.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "support/default_signals.hpp"

namespace exclave::tools {

#ifndef EXCLAVE_TOOL_PATH
#define EXCLAVE_TOOL_PATH EXCLAVE_BUILD_DIR "/exclave"
#endif

struct ToolResult {
  int code = -1;  // exit code; -1: ended by a signal
  int signal = 0;
  std::string out;
  std::string err;
};

class ToolTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "exclave-tool-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_)) {
      EXPECT_EQ(entry.path().filename().string().find(".exclave-"), std::string::npos)
          << "a temporary file is left: " << entry.path();
    }
    std::filesystem::remove_all(folder_);
  }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  bool exists(const std::string& name) const { return std::filesystem::exists(folder_ / name); }

  // in_child runs between fork and exec: limits, filters.
  pid_t start(const std::vector<std::string>& arguments,
              const std::function<void()>& in_child = {}) {
    const pid_t child = ::fork();
    if (child == 0) {
      testing_support::take_default_signals();
      const int out = ::open(path("stdout").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      const int err = ::open(path("stderr").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      ::dup2(out, 1);
      ::dup2(err, 2);
      if (::chdir(folder_.c_str()) != 0) {
        ::_exit(126);
      }
      ::setenv("HOME", folder_.c_str(), 1);
      ::unsetenv("XDG_CONFIG_HOME");
      if (in_child) {
        in_child();
      }
      std::vector<char*> argv;
      std::string program = EXCLAVE_TOOL_PATH;
      argv.push_back(program.data());
      std::vector<std::string> copies = arguments;
      for (std::string& copy : copies) {
        argv.push_back(copy.data());
      }
      argv.push_back(nullptr);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    return child;
  }
  ToolResult finish(pid_t child) {
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    return result_of(status);
  }
  ToolResult result_of(int status) const {
    ToolResult result;
    result.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    result.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    result.out = text("stdout");
    result.err = text("stderr");
    std::filesystem::remove(folder_ / "stdout");
    std::filesystem::remove(folder_ / "stderr");
    return result;
  }
  ToolResult run(const std::vector<std::string>& arguments,
                 const std::function<void()>& in_child = {}) {
    return finish(start(arguments, in_child));
  }

  // The longest file without a name that the process has open in this folder: an output that is not
  // complete. None: it has none, or has ended.
  std::optional<std::size_t> nameless_bytes(pid_t child) const {
    std::optional<std::size_t> longest;
    std::error_code gone;
    const std::string files = "/proc/" + std::to_string(child) + "/fd";
    for (const auto& file : std::filesystem::directory_iterator(files, gone)) {
      const std::string target = std::filesystem::read_symlink(file.path(), gone).string();
      struct stat status {};
      if (target.rfind(folder_.string() + "/", 0) == 0 &&
          ::stat(file.path().c_str(), &status) == 0 && status.st_nlink == 0) {
        longest = std::max(longest.value_or(0), static_cast<std::size_t>(status.st_size));
      }
    }
    return longest;
  }
  // What the folder holds, but for what start() makes.
  std::set<std::string> names() const {
    std::set<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      found.insert(entry.path().filename().string());
    }
    found.erase("stdout");
    found.erase("stderr");
    return found;
  }

  std::string text(const std::string& name) const {
    std::ifstream file(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path(name), std::ios::binary) << bytes;
  }
  static std::string random_bytes_of(std::size_t size, unsigned seed = 1) {
    std::mt19937_64 random(seed);
    std::string bytes(size, '\0');
    std::generate(bytes.begin(), bytes.end(), [&random] { return static_cast<char>(random()); });
    return bytes;
  }
  // A key, and a file sealed with it: "key", "in", "sealed".
  void seal_something(std::size_t size = 50000, const std::vector<std::string>& more = {}) {
    if (!exists("key")) {
      ASSERT_EQ(run({"keygen", "key"}).code, 0);
    }
    write("in", random_bytes_of(size));
    std::vector<std::string> arguments{"seal", "--key-file", "key",   "--block-size",
                                       "4096", "in",         "sealed"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const ToolResult result = run(arguments);
    ASSERT_EQ(result.code, 0) << result.err;
  }
  // Fails with this code and exactly one line on stderr that holds words; no output under its name.
  void expect_failure(const ToolResult& result, int code, const std::string& words,
                      const std::string& output = "out") {
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_EQ(result.err.rfind("exclave: ", 0), 0u) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    EXPECT_NE(result.err.find(words), std::string::npos) << result.err;
    EXPECT_FALSE(exists(output)) << "partial output";
  }

  std::filesystem::path folder_;
};

}  // namespace exclave::tools
