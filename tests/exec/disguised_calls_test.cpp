// Memory calls that do not look like one: none passes undispatched and loses what the books
// promise.
#include <sys/syscall.h>

#include "exec/exec_fixture.hpp"

namespace exclave::loader {
namespace {

class Threat71_CallsThatDoNotLookLikeOne : public ExecTest {
 protected:
  void SetUp() override {
    ExecTest::SetUp();
    write("file", "file's own bytes");
  }
  Words program(const std::string& mode) const { return {built("disguised"), mode, path("file")}; }
  static bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  }
};

// Linux takes all advice of a process about itself since 6.13.
TEST_F(Threat71_CallsThatDoNotLookLikeOne, AdviceByProcessIsDispatched) {
  const RunResult native = run(program("process"));
  const RunResult inside = run_inside(program("process"), {"--trace=" + path("trace")});
  EXPECT_EQ(inside.code, 0) << inside.err;
  EXPECT_TRUE(has(inside.out, "of a file: 4096\nits byte: f\n")) << inside.out;
  EXPECT_TRUE(has(inside.out, "vfork child: 3 0 f\n")) << inside.out;
  if (has(native.out, "of a file: 4096\n")) EXPECT_EQ(inside.out, native.out);
  EXPECT_TRUE(has(text("trace"), "madvise(0x")) << text("trace");
}

TEST_F(Threat71_CallsThatDoNotLookLikeOne, AdviceInARingIsRefused) {
  const RunResult native = run(program("ring"));
  if (!has(native.out, "ring: 0\n")) GTEST_SKIP() << "the kernel gives no rings here";
  const RunResult inside = run_inside(program("ring"), {"--allow-device", "anon_inode:[io_uring]"});
  EXPECT_EQ(inside.code, 0) << inside.err;
  // All else is as it is natively.
  std::string expected = native.out;
  const auto replace = [&expected](const std::string& from, const std::string& to) {
    for (std::size_t at = 0; (at = expected.find(from, at)) != std::string::npos;) {
      expected.replace(at, from.size(), to);
      at += to.size();
    }
  };
  replace("\nmadvise: 0\n", "\nmadvise: EACCES\n");
  replace("\nguard: 0\n", "\nguard: EACCES\n");
  replace("\nguard: EINVAL\n", "\nguard: EACCES\n");  // of kernels that have no guards
  replace("madvise 1\n", "madvise 0\n");
  EXPECT_EQ(inside.out, expected);
  EXPECT_TRUE(has(inside.out, "madvise: EACCES\nits byte: f\n")) << inside.out;
}

TEST_F(Threat71_CallsThatDoNotLookLikeOne, WhatChangesNoMappingIsAsNatively) {
  expect_same(program("pass"));
}

// A guard would be a page that the books believe to be there, so none is made, whichever call asks.
TEST_F(Threat71_CallsThatDoNotLookLikeOne, GuardsAreUnknownByEveryWay) {
  const std::string once =
      "guard: EINVAL\n"
      "outside: EINVAL\n"
      "of a process: EINVAL\n"
      "of a process, outside: EINVAL\n"
      "of a process, no length: EINVAL\n"
      "of this process by its name: EINVAL\n"
      "of this thread by its name: EINVAL\n"
      "of several: EINVAL\n"
      "of a vfork child: 3\n"
      "untouched: xxxxy\n"
      "of another: EINVAL\n";
  EXPECT_EQ(run_inside(program("guards")).out, once + once);
}

TEST_F(Threat71_CallsThatDoNotLookLikeOne, WhatWouldMapBesideTheBooksIsUnknown) {
  EXPECT_EQ(run_inside(program("refused")).out,
            "shadow stack: ENOSYS\n"
            "shadow stack of a thread: EINVAL\n"
            "vdso: EINVAL\n"
            "vdso of 32 bits: EINVAL\n"
            "uselib: ENOSYS\n"
            "no memory that becomes code: EINVAL\n"
            "gs: 0\n");
}

}  // namespace
}  // namespace exclave::loader
