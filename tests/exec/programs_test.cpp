// Small programs, from those that need nothing to those that need everything.
#include "exec/exec_fixture.hpp"

namespace exclave::loader {
namespace {

class ProgramsTest : public ExecTest {};

TEST_F(ProgramsTest, StaticProgramFindsWhatLinuxGives) {
  const RunResult inside = expect_same({built("static_hello"), "one", "", "three words here"});
  EXPECT_EQ(inside.code, 42);
  EXPECT_NE(inside.out.find("variable: a value"), std::string::npos);
}

TEST_F(ProgramsTest, EveryKindOfMemoryLiesInside) {
  const RunResult inside = run_inside({built("static_where")}, {"--elrange", "1G"});
  ASSERT_EQ(inside.code, 0) << inside.err;
  std::istringstream words(inside.out);
  int count = 0;
  for (std::string word; words >> word; ++count) {
    EXPECT_LT(std::stoull(word, nullptr, 16), 1ull << 30) << inside.out;
  }
  EXPECT_EQ(count, 7);
  // Natively they do not: the test would tell.
  const RunResult native = run({built("static_where")});
  EXPECT_NE(native.out.find("0x7f"), std::string::npos) << native.out;
}

TEST_F(ProgramsTest, MemoryCallsAnswerAsLinux) {
  const RunResult inside = expect_same({built("memory_calls")});
  EXPECT_EQ(std::count(inside.out.begin(), inside.out.end(), '\n'), 133) << inside.out;
}

TEST_F(ProgramsTest, DynamicProgramsOfTheSystem) {
  expect_same({"/bin/true", "--version"});
  expect_same({"/bin/false"});
  expect_same({"/bin/echo", "a", "b c"});
  expect_same({"/bin/ls", "-l", "/usr"});
  expect_same({"/bin/cat", "/no/such/file"});
}

// Who looks for free addresses there finds them: nothing is reserved but the books.
TEST_F(ProgramsTest, TheMapsOfAProgramAreItsOwn) {
  const RunResult inside = run_inside({"/bin/cat", "/proc/self/maps"});
  ASSERT_EQ(inside.code, 0) << inside.err;
  std::istringstream lines(inside.out);
  std::uintmax_t below = 0;
  for (std::string line; std::getline(lines, line);) {
    std::uintmax_t base = 0, end = 0;
    ASSERT_EQ(std::sscanf(line.c_str(), "%jx-%jx", &base, &end), 2) << line;
    if (end <= std::uintmax_t{16} << 40) below += end - base;
  }
  EXPECT_GT(below, 0u);
  EXPECT_LT(below, std::uintmax_t{1} << 30) << inside.out;
}

TEST_F(ProgramsTest, LimitsOfTheAddressSpace) {
  for (const char* kib : {"200000", "1000000", "8000000"}) {
    const std::string script =
        std::string("ulimit -v ") + kib + "; exec " + tool() + " exec -- /bin/echo fits";
    EXPECT_EQ(run({"/bin/sh", "-c", script}).out, "fits\n") << kib;
  }
  const RunResult none =
      run({"/bin/sh", "-c", "ulimit -v 60000; exec " + tool() + " exec -- /bin/echo fits"});
  EXPECT_EQ(none.code, 1);
  EXPECT_NE(none.err.find("exclave: exec: out of memory"), std::string::npos) << none.err;
  // The kernel then places mappings from below.
  EXPECT_EQ(
      run({"/bin/sh", "-c", "ulimit -s unlimited; exec " + tool() + " exec -- /bin/echo up"}).out,
      "up\n");
}

TEST_F(ProgramsTest, AStackThatOverflowsHurtsNothingElse) {
  EXPECT_EQ(expect_same({built("static_overflow")}).out, "deep: 1, changed: 0\n");
}

TEST_F(ProgramsTest, SignalsThatEndAProgramEndIt) {
  const RunResult inside = run_inside({"/bin/sh", "-c", "kill -TERM $$"});
  EXPECT_EQ(inside.code, -1);
  EXPECT_EQ(inside.signal, SIGTERM);
  EXPECT_EQ(run_inside({"/bin/sh", "-c", "kill -SEGV $$"}).signal, SIGSEGV);
  EXPECT_EQ(run_inside({"/bin/sh", "-c", "kill -SYS $$"}).signal, SIGSYS);
}

}  // namespace
}  // namespace exclave::loader
