// Runs programs natively and under the built `exclave exec`, and holds the two against each other.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "support/default_signals.hpp"

namespace exclave::loader {

struct RunResult {
  int code = -1;  // exit code; -1: ended by a signal
  int signal = 0;
  std::string out;
  std::string err;
};

class ExecTest : public ::testing::Test {
 protected:
  using Words = std::vector<std::string>;

  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "exclave-exec-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  static std::string tool() { return EXCLAVE_BUILD_DIR "/exclave"; }
  // A program of tests/exec/programs.
  static std::string built(const std::string& name) {
    return std::string(EXCLAVE_BUILD_DIR "/tests/exec/") + name;
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string write(const std::string& name, const std::string& bytes, unsigned mode = 0644) const {
    std::ofstream(path(name), std::ios::binary) << bytes;
    std::filesystem::permissions(path(name), std::filesystem::perms(mode));
    return path(name);
  }
  std::string text(const std::string& name) const {
    std::ifstream file(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  static std::string text_of(const std::string& file) {
    std::ifstream stream(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }

  // In the folder, with a small environment, and a minute to end in.
  RunResult run(const Words& words) const {
    const pid_t child = ::fork();
    if (child == 0) {
      testing_support::take_default_signals();
      const int out = ::open(path(".out").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      const int err = ::open(path(".err").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      ::dup2(out, 1);
      ::dup2(err, 2);
      ::close(out);
      ::close(err);
      if (::chdir(folder_.c_str()) != 0) ::_exit(125);
      ::alarm(60);
      std::vector<const char*> argv;
      for (const std::string& word : words) argv.push_back(word.c_str());
      argv.push_back(nullptr);
      const char* const environment[] = {"PATH=/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL=C.UTF-8",
                                         "EXCLAVE_TEST_VARIABLE=a value", nullptr};
      ::execve(argv[0], const_cast<char**>(argv.data()), const_cast<char**>(environment));
      ::_exit(125);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    RunResult result;
    result.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    result.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    result.out = text(".out");
    result.err = text(".err");
    return result;
  }
  RunResult run_inside(const Words& program, const Words& options = {}) const {
    Words words{tool(), "exec"};
    words.insert(words.end(), options.begin(), options.end());
    words.push_back("--");
    words.insert(words.end(), program.begin(), program.end());
    return run(words);
  }

  // Output, exit code and signal are what they are natively. The result, for more questions.
  RunResult expect_same(const Words& program, const Words& options = {}) const {
    const RunResult native = run(program);
    RunResult inside = run_inside(program, options);
    EXPECT_EQ(inside.out, native.out);
    EXPECT_EQ(inside.err, native.err);
    EXPECT_EQ(inside.code, native.code);
    EXPECT_EQ(inside.signal, native.signal);
    EXPECT_FALSE(native.out.empty() && native.err.empty() && native.code == 0)
        << "says nothing, so nothing was compared";
    return inside;
  }

  std::filesystem::path folder_;
};

}  // namespace exclave::loader
