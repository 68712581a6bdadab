// `exclave` from end to end: good input in every size, and every kind of bad input.
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <thread>

#include "call_filter.hpp"
#include "tool_runner.hpp"

namespace exclave::tools {
namespace {

using namespace std::chrono_literals;

// The exit codes that --help documents.
enum Code {
  kOk = 0,
  kInternal = 1,
  kUsage = 2,
  kInput = 3,
  kOutput = 4,
  kTampered = 5,
  kKey = 6,
  kHost = 7
};

bool io_uring_allowed() {
  alignas(8) std::array<unsigned char, 256> parameters{};
  const long ring = ::syscall(SYS_io_uring_setup, 2, parameters.data());
  if (ring >= 0) {
    ::close(static_cast<int>(ring));
  }
  return ring >= 0;
}

using SealTest = ToolTest;
using BadInputTest = ToolTest;
using Threat46_FileThatChanges = ToolTest;

// ---- Round trips ----

struct RoundTrip {
  std::size_t size;
  std::string engine;
};
class RoundTripTest : public ToolTest, public ::testing::WithParamInterface<RoundTrip> {};

TEST_P(RoundTripTest, ComesBackByteForByte) {
  const auto& [size, engine] = GetParam();
  if (engine == "uring" && !io_uring_allowed()) {
    GTEST_SKIP() << "io_uring is not allowed here";
  }
  ASSERT_EQ(run({"keygen", "key"}).code, kOk);
  write("in", random_bytes_of(size));
  const ToolResult sealed =
      run({"seal", "--key-file", "key", "--io", engine, "--block-size", "8K", "in", "sealed"});
  ASSERT_EQ(sealed.code, kOk) << sealed.err;
  EXPECT_EQ(sealed.err, "");
  EXPECT_NE(sealed.out.find("every block was read back and verified"), std::string::npos)
      << sealed.out;
  EXPECT_NE(sealed.out.find("attacks refused  0\n"), std::string::npos) << sealed.out;
  EXPECT_NE(sealed.out.find("validate_books(): valid"), std::string::npos) << sealed.out;
  EXPECT_NE(sealed.out.find(engine == "uring" ? "io_uring" : "pread and pwrite"), std::string::npos)
      << sealed.out;
  // No plaintext in the sealed file.
  if (size >= 16) {
    EXPECT_EQ(text("sealed").find(text("in").substr(0, 16)), std::string::npos);
  }
  const ToolResult opened = run({"unseal", "--key-file", "key", "--io", engine, "sealed", "out"});
  ASSERT_EQ(opened.code, kOk) << opened.err;
  EXPECT_TRUE(text("out") == text("in"));
  struct stat status {};
  ASSERT_EQ(::stat(path("out").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u) << "plaintext is for its owner alone";
}

constexpr std::size_t kPayload = 8192 - 16;
INSTANTIATE_TEST_SUITE_P(Sizes, RoundTripTest, ::testing::ValuesIn([] {
                           std::vector<RoundTrip> all;
                           for (const std::size_t size :
                                {std::size_t{1}, std::size_t{15}, kPayload - 1, kPayload,
                                 kPayload + 1, 8 * kPayload, 9 * kPayload + 3,
                                 std::size_t{5'000'001}}) {
                             all.push_back({size, "uring"});
                             all.push_back({size, "pread"});
                           }
                           return all;
                         }()),
                         [](const auto& test) {
                           return test.param.engine + std::to_string(test.param.size);
                         });

TEST_F(SealTest, DepthsAndBlockSizesDoNotMatterToTheContent) {
  seal_something(100000);
  for (const auto& [depth, block] : std::initializer_list<std::pair<std::string, std::string>>{
           {"1", "4096"}, {"3", "64K"}, {"64", "4096"}, {"64", "1M"}, {"2", "16M"}}) {
    ASSERT_EQ(run({"seal", "--key-file", "key", "--depth", depth, "--block-size", block, "--force",
                   "in", "sealed"})
                  .code,
              kOk);
    ASSERT_EQ(
        run({"unseal", "--key-file", "key", "--depth", depth, "--force", "sealed", "out"}).code,
        kOk);
    EXPECT_TRUE(text("out") == text("in"));
  }
}

TEST_F(SealTest, TheSameFileTwiceLooksNothingAlike) {
  seal_something(8000);
  const std::string first = text("sealed");
  std::filesystem::remove(path("sealed"));
  seal_something(8000);
  const std::string second = text("sealed");
  ASSERT_EQ(first.size(), second.size());
  EXPECT_NE(first.substr(4096, 64), second.substr(4096, 64));
}

TEST_F(SealTest, WhereIoUringIsNotAllowedItSaysSoAndGoesOn) {
  ASSERT_EQ(run({"keygen", "key"}).code, kOk);
  write("in", "hello");
  const ToolResult sealed = run({"seal", "--key-file", "key", "in", "sealed"}, forbid_io_uring);
  EXPECT_EQ(sealed.code, kOk) << sealed.err;
  EXPECT_NE(sealed.out.find(
                "io_uring is not to be had here (Operation not permitted): using pread and pwrite"),
            std::string::npos)
      << sealed.out;
  expect_failure(run({"seal", "--key-file", "key", "--io", "uring", "in", "out"}, forbid_io_uring),
                 kHost, "io_uring is not to be had here");
}

TEST_F(SealTest, WritesAPage) {
  ASSERT_EQ(run({"keygen", "key"}).code, kOk);
  write("in", random_bytes_of(100000));
  ASSERT_EQ(run({"seal", "--key-file", "key", "--block-size", "4K", "--report", "page.html", "in",
                 "sealed"})
                .code,
            kOk);
  const std::string page = text("page.html");
  EXPECT_EQ(page.rfind("<!doctype html>", 0), 0u);
  EXPECT_NE(page.find("sealed and verified"), std::string::npos);
  EXPECT_NE(page.find("I/O pool"), std::string::npos);
  EXPECT_EQ(page.find("http"), std::string::npos);
}

TEST_F(SealTest, HelpAndVersion) {
  EXPECT_EQ(run({"--version"}).out, "exclave " EXCLAVE_VERSION "\n");
  const ToolResult help = run({"--help"});
  EXPECT_EQ(help.code, kOk);
  EXPECT_NE(help.out.find("Exit codes:"), std::string::npos);
  for (const std::string command : {"seal", "unseal", "keygen"}) {
    const ToolResult more = run({command, "--help"});
    EXPECT_EQ(more.code, kOk);
    EXPECT_NE(more.out.find("Example:"), std::string::npos) << command;
  }
}

// ---- A hostile neighbour ----

// Its header lies in the same pool as the blocks, and may be hit alone, beside them, or not at all.
class Threat44_Neighbour : public ToolTest {
 protected:
  void expect_tampered(const ToolResult& result) {
    expect_failure(result, kTampered, "tampered with: ");
    EXPECT_TRUE(result.err.find("tampered with: block") != std::string::npos ||
                result.err.find("tampered with: the header") != std::string::npos)
        << result.err;
    EXPECT_NE(result.out.find("TAMPERED"), std::string::npos) << result.out;
  }
};

TEST_F(Threat44_Neighbour, WhateverItDoesTheBooksStayValidAndNothingTamperedIsDelivered) {
  ASSERT_EQ(run({"keygen", "key"}).code, kOk);
  write("in", random_bytes_of(48 << 20));
  const ToolResult sealed =
      run({"seal", "--key-file", "key", "--block-size", "64K", "--hostile", "in", "out"});
  EXPECT_NE(sealed.out.find("validate_books(): valid"), std::string::npos)
      << sealed.out << sealed.err;
  EXPECT_NE(sealed.out.find("neighbour"), std::string::npos);
  if (sealed.code == kOk) {
    // It missed: then what stands there must be right.
    ASSERT_EQ(run({"unseal", "--key-file", "key", "out", "back"}).code, kOk);
    EXPECT_TRUE(text("back") == text("in"));
  } else {
    expect_tampered(sealed);
  }
}

TEST_F(Threat44_Neighbour, UnsealTellsToo) {
  ASSERT_EQ(run({"keygen", "key"}).code, kOk);
  write("in", random_bytes_of(48 << 20));
  ASSERT_EQ(run({"seal", "--key-file", "key", "--block-size", "64K", "in", "sealed"}).code, kOk);
  const ToolResult opened = run({"unseal", "--key-file", "key", "--hostile", "sealed", "out"});
  EXPECT_NE(opened.out.find("validate_books(): valid"), std::string::npos)
      << opened.out << opened.err;
  EXPECT_NE(opened.out.find("neighbour"), std::string::npos) << "it was there";
  if (opened.code == kOk) {
    EXPECT_TRUE(text("out") == text("in"));
  } else {
    expect_tampered(opened);
  }
}

// ---- Tampering with the file ----

TEST_F(BadInputTest, EveryRegionOfASealedFileIsGuarded) {
  seal_something(3 * 4080 + 100);
  const std::string good = text("sealed");
  ASSERT_EQ(good.size(), 4096u + 3 * 4096 + 116);
  struct Place {
    std::size_t at;
    const char* words;
    int code;
  };
  for (const Place& place : std::initializer_list<Place>{
           {0, "no sealed file", kTampered},
           {8, "format", kTampered},
           {12, "header was tampered with", kTampered},  // block bytes, out of shape
           {16, "bytes are missing",
            kTampered},  // plaintext bytes: one bit more, and the file is short
           {30, "not sealed with this key", kKey},         // salt: another file key
           {60, "not sealed with this key", kKey},         // key check
           {100, "header was tampered with", kTampered},   // zeros
           {4095, "header was tampered with", kTampered},  // its tag
           {4096, "block 0 of 4", kTampered},              // ciphertext
           {4096 + 4095, "block 0 of 4", kTampered},       // tag
           {4096 + 4096, "block 1 of 4", kTampered},
           {4096 + 3 * 4096 + 50, "block 3 of 4", kTampered},
           {good.size() - 1, "block 3 of 4", kTampered}}) {
    std::string bad = good;
    bad[place.at] = static_cast<char>(bad[place.at] ^ (place.at == 16 ? 0x80 : 0x01));
    write("bad", bad);
    expect_failure(run({"unseal", "--key-file", "key", "bad", "out"}), place.code, place.words);
  }
}

TEST_F(BadInputTest, SeveralTamperedBlocksAreAllNamed) {
  seal_something(6 * 4080);
  std::string bad = text("sealed");
  for (const std::size_t block : {0U, 2U, 3U, 4U}) {
    bad[4096 + block * 4096 + 7] ^= 1;
  }
  write("bad", bad);
  expect_failure(run({"unseal", "--key-file", "key", "bad", "out"}), kTampered,
                 "blocks 0, 2-4 of 6");
}

TEST_F(BadInputTest, SwappedAndRepeatedBlocks) {
  seal_something(4 * 4080);
  const std::string good = text("sealed");
  std::string swapped = good;
  std::swap_ranges(swapped.begin() + 4096, swapped.begin() + 8192, swapped.begin() + 8192);
  write("bad", swapped);
  expect_failure(run({"unseal", "--key-file", "key", "bad", "out"}), kTampered, "blocks 0, 1 of 4");
  std::string repeated = good;
  std::copy(good.begin() + 4096, good.begin() + 8192, repeated.begin() + 8192);
  write("bad", repeated);
  expect_failure(run({"unseal", "--key-file", "key", "bad", "out"}), kTampered, "block 1 of 4");
}

TEST_F(BadInputTest, BlocksOfAnotherFile) {
  seal_something(4 * 4080);
  std::string mixed = text("sealed");
  std::filesystem::remove(path("sealed"));
  seal_something(4 * 4080);
  mixed.replace(8192, 4096, text("sealed").substr(8192, 4096));
  write("bad", mixed);
  expect_failure(run({"unseal", "--key-file", "key", "bad", "out"}), kTampered, "block 1 of 4");
}

TEST_F(BadInputTest, TruncatedAnywhere) {
  seal_something(3 * 4080 + 100);
  const std::string good = text("sealed");
  for (const std::size_t size :
       {std::size_t{1}, std::size_t{100}, std::size_t{4095}, std::size_t{4096}, std::size_t{4097},
        std::size_t{8192}, good.size() - 116, good.size() - 1}) {
    write("bad", good.substr(0, size));
    expect_failure(run({"unseal", "--key-file", "key", "bad", "out"}), kTampered, "truncated");
  }
  write("bad", good + "x");
  expect_failure(run({"unseal", "--key-file", "key", "bad", "out"}), kTampered,
                 "1 bytes follow its last block");
}

TEST_F(BadInputTest, NotASealedFile) {
  ASSERT_EQ(run({"keygen", "key"}).code, kOk);
  write("in", random_bytes_of(9000));
  expect_failure(run({"unseal", "--key-file", "key", "in", "out"}), kTampered, "no sealed file");
  write("in", "");
  expect_failure(run({"unseal", "--key-file", "key", "in", "out"}), kInput, "is empty");
  expect_failure(run({"unseal", "--key-file", "key", "nowhere", "out"}), kInput,
                 "No such file or directory");
  expect_failure(run({"unseal", "--key-file", "key", ".", "out"}), kInput, "is a directory");
}

// ---- Other bad input ----

TEST_F(BadInputTest, InputThatCannotBeSealed) {
  ASSERT_EQ(run({"keygen", "key"}).code, kOk);
  const auto seal = [this](const std::string& input) {
    return run({"seal", "--key-file", "key", input, "out"});
  };
  expect_failure(seal("nowhere"), kInput, "nowhere: No such file or directory");
  expect_failure(seal("."), kInput, "is a directory");
  write("empty", "");
  expect_failure(seal("empty"), kInput, "is empty");
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  expect_failure(seal("pipe"), kInput, "is not a regular file");
  expect_failure(seal("/dev/zero"), kInput, "is not a regular file");
  write("huge", "x");
  if (::truncate(path("huge").c_str(), off_t{5} << 40) == 0) {
    expect_failure(seal("huge"), kInput, "is too large: a sealed file holds at most 4 TiB");
  }
}

TEST_F(BadInputTest, UnreadableInput) {
  write("in", "x");
  ASSERT_EQ(::chmod(path("in").c_str(), 0), 0);
  ASSERT_EQ(::chmod(folder_.c_str(), 0777), 0);
  // Root reads everything, so it becomes nobody.
  constexpr unsigned kNobody = 65534;
  const auto drop = [this] {
    // A coverage build says so when it may not write its counts.
    ::setenv("GCOV_PREFIX", folder_.c_str(), 1);
    if (::geteuid() == 0 && (::setgid(kNobody) != 0 || ::setuid(kNobody) != 0)) {
      ::_exit(125);
    }
  };
  const ToolResult result = run({"seal", "in", "out"}, drop);
  if (result.code == 127) {
    GTEST_SKIP() << "nobody may not run " EXCLAVE_TOOL_PATH;
  }
  expect_failure(result, kInput, "in: Permission denied");
}

TEST_F(Threat46_FileThatChanges, GrowsWhileItIsRead) {
  ASSERT_EQ(run({"keygen", "key"}).code, kOk);
  // A file of the kernel's that is longer than its size says.
  for (const std::string& name : {std::string("/proc/self/status"),
                                  std::string("/sys/kernel/mm/transparent_hugepage/enabled")}) {
    const ToolResult result = run({"seal", "--key-file", "key", name, "out"});
    expect_failure(result, kInput, name);
  }
}

TEST_F(Threat46_FileThatChanges, BothWaysWhileItIsRead) {
  ASSERT_EQ(run({"keygen", "key"}).code, kOk);
  int tries = 0;
  for (bool grow = true, done = false; !done;) {
    write("in", "");
    std::filesystem::remove(path("out"));
    // Sparse: long enough to be still at work when its size changes.
    ASSERT_EQ(::truncate(path("in").c_str(), 256 << 20), 0);
    const pid_t child = start({"seal", "--key-file", "key", "in", "out"});
    // Or even done.
    const auto at_work = [&] { return exists("out") || nameless_bytes(child) > (2U << 20); };
    for (int i = 0; i < 10000 && !at_work(); ++i) {
      std::this_thread::sleep_for(1ms);
    }
    ASSERT_EQ(::truncate(path("in").c_str(), grow ? (256 << 20) + 1 : 1 << 10), 0);
    const ToolResult result = finish(child);
    if (result.code == kOk && ++tries < 10) continue;  // a busy machine came back here too late
    expect_failure(result, kInput,
                   grow ? "became longer while it was read" : "became shorter while it was read");
    done = !grow;
    grow = false;
  }
}

TEST_F(BadInputTest, Keys) {
  write("in", "hello");
  const auto seal = [this](const std::string& key) {
    return run({"seal", "--key-file", key, "in", "out"});
  };
  expect_failure(seal("nokey"), kKey, "key file nokey: there is none");
  expect_failure(seal("."), kKey, "not a regular file");
  write("short", std::string(31, 'k'));
  ASSERT_EQ(::chmod(path("short").c_str(), 0600), 0);
  expect_failure(seal("short"), kKey, "32 bytes, or 64 hex digits");
  write("long", std::string(100, 'a'));
  ASSERT_EQ(::chmod(path("long").c_str(), 0600), 0);
  expect_failure(seal("long"), kKey, "32 bytes, or 64 hex digits");
  write("nothex", std::string(64, 'g'));
  ASSERT_EQ(::chmod(path("nothex").c_str(), 0600), 0);
  expect_failure(seal("nothex"), kKey, "32 bytes, or 64 hex digits");
  ASSERT_EQ(run({"keygen", "key"}).code, kOk);
  for (const mode_t mode : {0640U, 0604U, 0620U}) {
    ASSERT_EQ(::chmod(path("key").c_str(), mode), 0);
    expect_failure(seal("key"), kKey, "others than its owner may use it");
  }
}

TEST_F(BadInputTest, RawAndHexKeysAreTheSameKey) {
  write("raw", std::string(32, '\xab'));
  std::string hex;
  for (int i = 0; i < 32; ++i) {
    hex += i % 2 == 0 ? "ab" : "AB";
  }
  write("hex", hex + "\n");
  ASSERT_EQ(::chmod(path("raw").c_str(), 0600), 0);
  ASSERT_EQ(::chmod(path("hex").c_str(), 0600), 0);
  write("in", "hello");
  ASSERT_EQ(run({"seal", "--key-file", "raw", "in", "sealed"}).code, kOk);
  ASSERT_EQ(run({"unseal", "--key-file", "hex", "sealed", "out"}).code, kOk);
  EXPECT_EQ(text("out"), "hello");
}

TEST_F(BadInputTest, WrongKey) {
  seal_something();
  ASSERT_EQ(run({"keygen", "other"}).code, kOk);
  expect_failure(run({"unseal", "--key-file", "other", "sealed", "out"}), kKey,
                 "was not sealed with this key");
}

TEST_F(BadInputTest, KeysAreNeverOverwritten) {
  ASSERT_EQ(run({"keygen", "key"}).code, kOk);
  const std::string before = text("key");
  struct stat status {};
  ASSERT_EQ(::stat(path("key").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  expect_failure(run({"keygen", "key"}), kKey, "key: exists already; it stays as it is");
  EXPECT_EQ(text("key"), before);
}

TEST_F(BadInputTest, TheDefaultKeyIsMadeOnlyWhenAskedFor) {
  write("in", "hello");
  expect_failure(run({"seal", "in", "out"}), kKey,
                 ".config/exclave/key: there is none; `exclave keygen` makes one");
  ASSERT_EQ(run({"seal", "--new-key", "in", "sealed"}).code, kOk);
  EXPECT_TRUE(exists(".config/exclave/key"));
  ASSERT_EQ(run({"unseal", "sealed", "out"}).code, kOk);
  EXPECT_EQ(text("out"), "hello");
}

TEST_F(BadInputTest, ExistingOutput) {
  seal_something();
  write("there", "precious");
  const ToolResult refused = run({"seal", "--key-file", "key", "in", "there"});
  EXPECT_EQ(refused.code, kOutput);
  EXPECT_EQ(refused.err, "exclave: there: exists already; --force replaces it\n");
  EXPECT_EQ(text("there"), "precious");
  ASSERT_EQ(run({"seal", "--key-file", "key", "--force", "in", "there"}).code, kOk);
  ASSERT_EQ(run({"unseal", "--key-file", "key", "there", "out"}).code, kOk);
  EXPECT_TRUE(text("out") == text("in"));
}

TEST_F(BadInputTest, AFailedRunKeepsTheOutputThatForceWouldReplace) {
  seal_something();
  std::string bad = text("sealed");
  bad.back() = static_cast<char>(bad.back() ^ 1);
  write("bad", bad);
  write("there", "precious");
  EXPECT_EQ(run({"unseal", "--key-file", "key", "--force", "bad", "there"}).code, kTampered);
  EXPECT_EQ(text("there"), "precious");
}

TEST_F(BadInputTest, OutputThatCannotBe) {
  seal_something();
  const auto seal = [this](const std::string& output) {
    return run({"seal", "--key-file", "key", "--force", "in", output});
  };
  expect_failure(seal("nowhere/out"), kOutput, "No such file or directory");
  for (const std::string name : {".", "..", "./", "nowhere/"}) {
    expect_failure(seal(name), kOutput, "not the name of a file");
  }
  expect_failure(seal("/dev/full"), kOutput, "is not a regular file");
  expect_failure(seal("key/out"), kOutput, "Not a directory");
  ASSERT_EQ(::mkdir(path("folder").c_str(), 0700), 0);
  expect_failure(seal("folder"), kOutput, "is a directory");
  expect_failure(seal(std::string(300, 'n')), kOutput, "File name too long");
  expect_failure(seal("in"), kUsage, "the same file");
  ASSERT_EQ(::link(path("in").c_str(), path("alias").c_str()), 0);
  expect_failure(seal("alias"), kUsage, "the same file");
  EXPECT_EQ(text("in").size(), 50000u);
}

TEST_F(BadInputTest, AFullDisk) {
  seal_something(6'000'000);
  // Memory that is shared counts as a file, too: room for the pool, but not for the output.
  const auto small_files = [] {
    const rlimit limit{4 << 20, 4 << 20};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  };
  for (const std::string engine : {"auto", "pread"}) {
    expect_failure(
        run({"seal", "--key-file", "key", "--block-size", "64K", "--io", engine, "in", "out"},
            small_files),
        kOutput, "out: File too large");
    expect_failure(
        run({"unseal", "--key-file", "key", "--io", engine, "sealed", "out"}, small_files), kOutput,
        "out: File too large");
  }
}

// Every block size with every depth: the pool must always have room.
TEST_F(SealTest, ThePoolHasRoom) {
  ASSERT_EQ(run({"keygen", "key"}).code, kOk);
  write("in", random_bytes_of(3'000'001));
  for (const std::string block :
       {"4K", "8K", "12K", "20K", "32K", "36K", "64K", "100K", "1028K", "3M"}) {
    for (const std::string depth : {"1", "7", "64"}) {
      const ToolResult result = run({"seal", "--key-file", "key", "--force", "--depth", depth,
                                     "--block-size", block, "in", "sealed"});
      EXPECT_EQ(result.code, kOk) << block << ' ' << depth << ' ' << result.err;
    }
  }
}

TEST_F(BadInputTest, AFullFileSystem) {
  seal_something(3'000'000);
  const std::string full = path("full");
  ASSERT_EQ(::mkdir(full.c_str(), 0700), 0);
  if (::mount("none", full.c_str(), "tmpfs", 0, "size=1m") != 0) {
    GTEST_SKIP() << "no right to mount a small file system";
  }
  for (const std::string engine : {"auto", "pread"}) {
    expect_failure(run({"seal", "--key-file", "key", "--io", engine, "in", "full/out"}), kOutput,
                   "No space left on device", "full/out");
    expect_failure(run({"unseal", "--key-file", "key", "--io", engine, "sealed", "full/out"}),
                   kOutput, "No space left on device", "full/out");
    EXPECT_TRUE(std::filesystem::is_empty(full)) << "a temporary file is left";
  }
  EXPECT_EQ(::umount(full.c_str()), 0);
}

TEST_F(BadInputTest, Reports) {
  seal_something();
  const auto seal = [this](const std::string& report) {
    return run({"seal", "--key-file", "key", "--report", report, "in", "out"});
  };
  expect_failure(seal("nowhere/page.html"), kOutput,
                 "nowhere/page.html: No such file or directory");
  expect_failure(seal("."), kOutput, "not the name of a file");
  EXPECT_EQ(text("in").size(), 50000u);
}

TEST_F(BadInputTest, CommandLines) {
  write("in", "x");
  for (const std::vector<std::string>& arguments : std::initializer_list<std::vector<std::string>>{
           {},
           {"fly"},
           {"seal"},
           {"seal", "in"},
           {"seal", "in", "out", "more"},
           {"seal", "--io", "magic", "in", "out"},
           {"seal", "--depth", "0", "in", "out"},
           {"seal", "--depth", "65", "in", "out"},
           {"seal", "--depth", "-1", "in", "out"},
           {"seal", "--block-size", "1000", "in", "out"},
           {"seal", "--block-size", "4097", "in", "out"},
           {"seal", "--block-size", "32M", "in", "out"},
           {"seal", "--block-size", "x", "in", "out"},
           {"unseal", "--block-size", "4096", "in", "out"},
           {"seal", "--fly", "in", "out"}}) {
    expect_failure(run(arguments), kUsage, "");
  }
}

}  // namespace
}  // namespace exclave::tools
