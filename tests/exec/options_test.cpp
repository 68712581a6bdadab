// What the command line tells the loader arrives as it was said; which names an entry allows.
#include "loader/options.hpp"

#include <gtest/gtest.h>

#include <string>

#include "loader/policy.hpp"

namespace exclave::loader {
namespace {

struct StringSink {
  std::string bytes;
  void text(std::string_view more) { bytes += more; }
  void put(char c) { bytes += c; }
  void unsigned_decimal(std::uint64_t value) { bytes += std::to_string(value); }
};

TEST(LoaderOptionsTest, ArriveAsTheyWereSaid) {
  Options said;
  said.range_bytes = std::uint64_t{1} << 44;
  said.trace = said.sigsys_blocked = true;
  said.output = 500;
  said.output_device = 77;
  said.output_inode = UINT64_MAX;
  said.close_descriptor = 9;
  StringSink sink;
  write_options(said, sink);
  Options heard;
  ASSERT_TRUE(read_options(sink.bytes, &heard));
  EXPECT_EQ(heard.range_bytes, said.range_bytes);
  EXPECT_TRUE(heard.trace && heard.sigsys_blocked);
  EXPECT_FALSE(heard.stats || heard.sigsys_ignored);
  EXPECT_EQ(heard.output, 500);
  EXPECT_EQ(heard.output_device, 77u);
  EXPECT_EQ(heard.output_inode, UINT64_MAX);
  EXPECT_EQ(heard.close_descriptor, 9);

  StringSink plain;
  write_options(Options{}, plain);
  ASSERT_TRUE(read_options(plain.bytes, &heard));
  EXPECT_EQ(heard.close_descriptor, -1);
  EXPECT_EQ(heard.output, 2);
}

TEST(LoaderOptionsTest, WhatIsNoNumberIsRefused) {
  Options options;
  EXPECT_FALSE(read_options("range=", &options));
  EXPECT_FALSE(read_options("range=x", &options));
  EXPECT_FALSE(read_options("range", &options));
  EXPECT_FALSE(read_options("range=18446744073709551616", &options));
  EXPECT_TRUE(read_options("range=18446744073709551615", &options));
}

TEST(LoaderPolicyTest, NamesThatAnEntryAllows) {
  EXPECT_TRUE(name_matches("/dev/kvm", "/dev/kvm"));
  EXPECT_TRUE(name_matches("/dev/shm", "/dev/shm/a/b"));
  EXPECT_TRUE(name_matches("/dev/shm/", "/dev/shm/a"));
  EXPECT_TRUE(name_matches("/dev/shm/a", "/dev/shm/a (deleted)"));
  EXPECT_TRUE(name_matches("/memfd:", "/memfd:pool (deleted)"));
  EXPECT_TRUE(name_matches("anon_inode:[io_uring]", "anon_inode:[io_uring]"));
  EXPECT_FALSE(name_matches("/dev/kv", "/dev/kvm"));
  EXPECT_FALSE(name_matches("/dev/kvm", "/dev/kv"));
  EXPECT_FALSE(name_matches("", "/dev/kvm"));
  EXPECT_FALSE(name_matches("/memfd:po", "/memfd:pool (deleted)"));
  EXPECT_FALSE(name_matches("/dev/shm/a", "/dev/shm/a (deleted) (deleted)"));
}

}  // namespace
}  // namespace exclave::loader
