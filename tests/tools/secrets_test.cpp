// What `exclave seal` owes the secrets: each byte of the format, each check on the way in and out,
// and nothing of a key or of plaintext that outlives its use.
#include <sys/resource.h>

#include <new>
#include <sstream>

#include "support/sanitizers.hpp"
#include "tools/enclave_block_cipher.hpp"
#include "tools/enclave_key_file.hpp"
#include "tools/failure.hpp"
#include "watched_run.hpp"

namespace exclave::tools {
namespace {

enum Code { kOk = 0, kOutput = 4, kTampered = 5, kKey = 6 };

std::string known(const std::string& name) {
  std::ifstream file(EXCLAVE_SOURCE_DIR "/tests/tools/known/" + name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string from_hex(const std::string& digits) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < digits.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(digits.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

// Of known/sealed, as tests/tools/another_hand.py derives it.
constexpr const char* kKnownFileKey =
    "d8ea7722678de56e7568635ddbfe37137dd0ff5c5bb2b5bbde1f5a69d02f9878";

// ---- The format, byte by byte ----

// known/sealed was made once, by exclave; another_hand.py makes it from docs/sealed-format.md.
TEST(KnownAnswerTest, TheCipherMakesEachByteOfIt) {
  const std::string sealed = known("sealed");
  const std::string plaintext = known("plaintext");
  HeaderBytes on_file;
  ASSERT_GT(sealed.size(), on_file.size());
  std::copy_n(sealed.begin(), on_file.size(), on_file.begin());
  SealedHeader header;
  ASSERT_EQ(decode_header(on_file, header), HeaderFault::kNone);
  Key key;
  const std::string key_bytes = from_hex(known("key"));
  std::copy(key_bytes.begin(), key_bytes.end(), key.data());

  BlockCipher cipher(key, header);
  SealedHeader made = header;
  made.key_check = cipher.key_check();
  HeaderBytes made_bytes = encode_header(made);
  cipher.seal_header(made_bytes);
  EXPECT_EQ(made_bytes, on_file);
  EXPECT_TRUE(cipher.open_header(on_file));

  const SealedLayout layout(header);
  ASSERT_EQ(layout.blocks, 3u);
  ASSERT_EQ(layout.file_bytes, sealed.size());
  for (std::uint64_t index = 0; index < layout.blocks; ++index) {
    const auto* const piece =
        reinterpret_cast<const std::uint8_t*>(plaintext.data()) + index * layout.payload_bytes;
    std::vector<std::uint8_t> block(layout.sealed_in(index));
    cipher.seal_block(index, {piece, layout.plaintext_in(index)}, block.data());
    EXPECT_TRUE(
        std::equal(block.begin(), block.end(),
                   reinterpret_cast<const std::uint8_t*>(sealed.data()) + layout.offset(index)))
        << index;
  }
}

class KnownFileTest : public WatchedRunTest {
 protected:
  void SetUp() override {
    ToolTest::SetUp();
    for (const char* name : {"key", "plaintext", "sealed"}) write(name, known(name));
    ASSERT_EQ(::chmod(path("key").c_str(), 0600), 0);
  }
};

TEST_F(KnownFileTest, Opens) {
  ASSERT_EQ(run({"unseal", "--key-file", "key", "sealed", "out"}).code, kOk);
  EXPECT_TRUE(text("out") == known("plaintext"));
}

// ---- What comes back from the host ----

using ReadBackTest = WatchedRunTest;

// Everything has been written and is brought to disk; then it is read back.
TEST_F(ReadBackTest, WhatChangesOnTheWayIsTold) {
  seal_something(3 * 4080);
  struct Change {
    off_t at;
    const char* words;
  };
  for (const Change& change :
       std::initializer_list<Change>{{2000, "tampered with: the header of"},
                                     {4095, "tampered with: the header of"},
                                     {30, "tampered with: the header of"},
                                     {4096, "block 0 of 3"},
                                     {4096 + 2 * 4096 - 1, "block 1 of 3"},
                                     {4096 + 3 * 4096 - 1, "block 2 of 3"}}) {
    for (const std::string engine : {"auto", "pread"}) {
      bool done = false;
      const ToolResult result =
          watch({"seal", "--io", engine, "--key-file", "key", "--block-size", "4096", "in", "out"},
                [&](const WatchedCall& call) {
                  if (call.number != SYS_fsync || done) return;
                  done = true;
                  const int file = ::open(("/proc/" + std::to_string(call.thread) + "/fd/" +
                                           std::to_string(static_cast<int>(call.arguments[0])))
                                              .c_str(),
                                          O_RDWR | O_CLOEXEC);
                  char byte = 0;
                  EXPECT_EQ(::pread(file, &byte, 1, change.at), 1);
                  byte ^= 1;
                  EXPECT_EQ(::pwrite(file, &byte, 1, change.at), 1);
                  ::close(file);
                });
      EXPECT_TRUE(done);
      expect_failure(result, kTampered, change.words);
    }
  }
}

TEST_F(ReadBackTest, WhatIsCutOffIsTold) {
  seal_something(3 * 4080);
  for (const off_t size : {off_t{0}, off_t{4095}, off_t{4096}, off_t{4096 + 3 * 4096 - 1}}) {
    bool done = false;
    const ToolResult result =
        watch({"seal", "--key-file", "key", "--block-size", "4096", "in", "out"},
              [&](const WatchedCall& call) {
                if (call.number != SYS_fsync || done) return;
                done = true;
                EXPECT_EQ(::truncate(("/proc/" + std::to_string(call.thread) + "/fd/" +
                                      std::to_string(static_cast<int>(call.arguments[0])))
                                         .c_str(),
                                     size),
                          0);
              });
    EXPECT_TRUE(done);
    expect_failure(result, kTampered,
                   size < 4096    ? "the header"
                   : size == 4096 ? "blocks 0-2 of 3"
                                  : "block 2 of 3");
  }
}

// ---- Whose key it is ----

using KeyOwnerTest = ToolTest;

TEST_F(KeyOwnerTest, AKeyOfAnotherUserIsRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
  seal_something();
  constexpr uid_t kNobody = 65534;
  ASSERT_EQ(::chown(path("key").c_str(), kNobody, kNobody), 0);
  expect_failure(run({"seal", "--key-file", "key", "in", "out"}), kKey,
                 "it belongs to another user");
  // Root's keys are anybody's who can read them.
  ASSERT_EQ(::chown(path("key").c_str(), 0, 0), 0);
  EXPECT_EQ(run({"seal", "--key-file", "key", "in", "out"}).code, kOk);
}

// ---- What a key file may hold ----

class KeyTextTest : public ToolTest {
 protected:
  // The bytes of the key. Empty: refused.
  std::string loaded(const std::string& text_of_file) const {
    write("text", text_of_file);
    EXPECT_EQ(::chmod(path("text").c_str(), 0600), 0);
    FileId file;
    try {
      const Key key = load_key(path("text"), &file);
      return {reinterpret_cast<const char*>(key.data()), Key::size()};
    } catch (const Failure& failure) {
      EXPECT_EQ(failure.code(), ExitCode::kKey);
      return {};
    }
  }
};

TEST_F(KeyTextTest, EachDigitCountsInBothItsPlaces) {
  const std::string digits = "0123456789abcdefABCDEF";
  for (std::size_t place : {0U, 1U, 62U, 63U}) {
    for (int byte = 0; byte < 256; ++byte) {
      std::string text(64, '0');
      text[place] = static_cast<char>(byte);
      const std::size_t digit = digits.find(static_cast<char>(byte));
      if (digit == std::string::npos) {
        EXPECT_EQ(loaded(text), "") << byte << " at " << place;
        continue;
      }
      std::string wanted(32, '\0');
      const std::size_t value = digit < 16 ? digit : digit - 6;
      wanted[place / 2] = static_cast<char>(place % 2 == 0 ? value << 4 : value);
      EXPECT_TRUE(loaded(text) == wanted) << byte << " at " << place;
    }
  }
}

TEST_F(KeyTextTest, OnlyALineEndMayFollow) {
  const std::string digits(64, 'a');
  const std::string key(32, '\xaa');
  for (const char* end : {"", "\n", "\r\n", "\r"}) EXPECT_TRUE(loaded(digits + end) == key);
  for (const char* end : {"a", " ", "\n\n\n", "\n\n\n\n", "\n\n\nmore", "\na", "a\n"}) {
    EXPECT_EQ(loaded(digits + end), "") << end;
  }
  for (const std::size_t size : {0U, 31U, 33U, 63U}) EXPECT_EQ(loaded(digits.substr(0, size)), "");
  EXPECT_TRUE(loaded(std::string(32, '\n')) == std::string(32, '\n')) << "bytes as they are";
}

// ---- What is left in memory ----

TEST(SecretBytesTest, AreWipedWhenTheyGo) {
  alignas(SecretBytes<32>) std::array<std::uint8_t, sizeof(SecretBytes<32>)> place{};
  auto* const secret = ::new (place.data()) SecretBytes<32>;
  std::fill(secret->data(), secret->data() + 32, std::uint8_t{0xab});
  secret->~SecretBytes<32>();
  EXPECT_EQ(std::count(place.begin(), place.end(), 0xab), 0);
}

TEST(SecretBytesTest, AreWipedWhereTheyWereMovedFrom) {
  SecretBytes<32> from;
  std::fill(from.data(), from.data() + 32, std::uint8_t{0xab});
  const SecretBytes<32> to(std::move(from));
  EXPECT_EQ(std::count(to.data(), to.data() + 32, 0xab), 32);
  EXPECT_EQ(std::count(from.data(), from.data() + 32, 0xab), 0);
}

class LeftInMemoryTest : public KnownFileTest {
 protected:
  void SetUp() override {
    KnownFileTest::SetUp();
    if (testing_support::kSanitized) {
      GTEST_SKIP() << "a sanitizer keeps what was freed, and terabytes of shadow";
    }
  }
  // Runs it, and keeps all of its memory as it ends.
  void run_to_its_end(const std::vector<std::string>& arguments, int expected_code = kOk) {
    memory_.clear();
    const ToolResult result = watch(
        arguments,
        [this](const WatchedCall& call) {
          if (call.number == SYS_exit_group) memory_ = writable_memory(call.thread);
        },
        // Else the dynamic linker, at the first call of a function, puts vector registers on the
        // stack, and with them whatever was copied last.
        [] { ::setenv("LD_BIND_NOW", "1", 1); });
    EXPECT_FALSE(memory_.empty());
    EXPECT_EQ(result.code, expected_code) << result.err;
  }
  bool left(const std::string& secret) const {
    return std::any_of(memory_.begin(), memory_.end(), [&secret](const std::string& piece) {
      return piece.find(secret) != std::string::npos;
    });
  }

 private:
  static std::vector<std::string> writable_memory(pid_t process) {
    std::vector<std::string> all;
    const std::string folder = "/proc/" + std::to_string(process);
    std::ifstream maps(folder + "/maps");
    const int memory = ::open((folder + "/mem").c_str(), O_RDONLY | O_CLOEXEC);
    for (std::string line; std::getline(maps, line);) {
      std::uint64_t begin = 0, end = 0;
      char dash = 0;
      std::string rights;
      std::istringstream(line) >> std::hex >> begin >> dash >> end >> rights;
      if (rights.find('w') == std::string::npos) continue;
      // Page after page: much of it has never been touched.
      std::string bytes;
      std::array<char, 1 << 16> piece;
      for (std::uint64_t at = begin; at < end; at += piece.size()) {
        const ssize_t got =
            ::pread(memory, piece.data(), std::min(piece.size(), end - at), static_cast<off_t>(at));
        if (got <= 0) break;
        bytes.append(piece.data(), static_cast<std::size_t>(got));
      }
      all.push_back(std::move(bytes));
    }
    ::close(memory);
    return all;
  }

  std::vector<std::string> memory_;
};

TEST_F(LeftInMemoryTest, NoKeyAndNoPlaintext) {
  const std::string digits = known("key").substr(0, 64);
  const std::string plaintext = known("plaintext");
  const std::map<std::string, std::string> secrets{
      {"key", from_hex(digits)},
      {"key file", digits.substr(0, 32)},
      {"key file's end", digits.substr(32)},
      {"file key", from_hex(kKnownFileKey)},
      {"first block", plaintext.substr(100, 32)},
      {"second block", plaintext.substr(4080 + 100, 32)},
      {"last block", plaintext.substr(plaintext.size() - 32)}};
  const auto expect_none = [&](const char* after) {
    for (const auto& [name, bytes] : secrets) EXPECT_FALSE(left(bytes)) << name << " by " << after;
  };
  run_to_its_end({"unseal", "--key-file", "key", "sealed", "out"});
  expect_none("unseal");
  run_to_its_end({"seal", "--key-file", "key", "--block-size", "4096", "plaintext", "again"});
  expect_none("seal");
  std::string bad = text("sealed");
  bad[4096 + 4095] = static_cast<char>(bad[4096 + 4095] ^ 1);
  write("bad", bad);
  run_to_its_end({"unseal", "--key-file", "key", "bad", "other"}, kTampered);
  expect_none("an unseal that finds tampering");
  // That it finds what is there: a path is no secret.
  EXPECT_TRUE(left("--key-file"));
}

TEST_F(LeftInMemoryTest, NoNewKey) {
  run_to_its_end({"keygen", "new"});
  const std::string digits = text("new").substr(0, 64);
  EXPECT_FALSE(left(digits.substr(0, 32)));
  EXPECT_FALSE(left(digits.substr(32)));
  EXPECT_FALSE(left(from_hex(digits)));
}

// ---- No core file ----

using CoreFileTest = KnownFileTest;

TEST_F(CoreFileTest, NoneIsWritten) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_CORE, &before), 0);
  if (before.rlim_max == 0) GTEST_SKIP() << "core files are forbidden here";
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"unseal", "--key-file", "key", "sealed", "out"},
        std::vector<std::string>{"keygen", "new"}}) {
    std::string limit;
    watch(
        arguments,
        [&limit](const WatchedCall& call) {
          if (call.number != SYS_fsync) return;
          std::ifstream limits("/proc/" + std::to_string(call.thread) + "/limits");
          while (std::getline(limits, limit) && limit.rfind("Max core file size", 0) != 0) {
          }
        },
        [&before] {
          const rlimit most{before.rlim_max, before.rlim_max};
          ::setrlimit(RLIMIT_CORE, &most);
        });
    std::istringstream words(limit.substr(std::min(limit.size(), std::size_t{18})));
    std::string soft, hard;
    words >> soft >> hard;
    EXPECT_EQ(soft, "0") << limit;
    EXPECT_EQ(hard, "0") << limit;
  }
}

}  // namespace
}  // namespace exclave::tools
