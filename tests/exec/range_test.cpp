// How much address space a program has by default, and what is said where that is too little.
#include <regex>

#include "exec/exec_fixture.hpp"

namespace exclave::loader {
namespace {

class RangeTest : public ExecTest {
 protected:
  // The lines of the tool's own.
  static std::string told(const RunResult& result) {
    std::istringstream lines(result.err);
    std::string all;
    for (std::string line; std::getline(lines, line);) {
      if (line.rfind("exclave: ", 0) == 0) all += line + "\n";
    }
    return all;
  }
};

TEST_F(RangeTest, ByDefaultThereIsRoomForThoseWhoReserveLavishly) {
  const RunResult inside = expect_same({built("lavish")});
  EXPECT_EQ(inside.out, "haskell: all\nmemories: 20\nbrowser: done\ndatabase: done\nfixed: 1\n");
}

// Small pages and tables for it: nothing of the range costs anything before it is used.
TEST_F(RangeTest, ALargeRangeCostsNoMemory) {
  const auto kib = [&](const std::string& size, const std::string& what) {
    const RunResult inside =
        run_inside({"/bin/grep", what + ":", "/proc/self/status"}, {"--elrange", size});
    return std::stoul(inside.out.substr(inside.out.find(':') + 1));
  };
  for (const char* what : {"VmSize", "VmData"}) {
    EXPECT_EQ(kib("16T", what) / 1024, kib("64G", what) / 1024) << what;
  }
  EXPECT_LE(kib("16T", "VmPTE"), kib("64G", "VmPTE") + 32);
}

TEST_F(RangeTest, WhoAsksForMoreThanThereIsIsToldWhy) {
  const RunResult inside = run_inside({built("lavish"), "1024"}, {"--elrange", "256M"});
  EXPECT_EQ(inside.out, "refused\n");
  EXPECT_EQ(inside.signal, SIGABRT);
  EXPECT_TRUE(std::regex_match(told(inside),
                               std::regex("exclave: exec: lavish asked for 1 GiB at once, and "
                                          "its range of 256 MiB has [0-9]+ MiB left in one piece: "
                                          "try --elrange 2G\n")))
      << inside.err;
  // It is said once, and by each program.
  const RunResult twice = run_inside(
      {"/bin/sh", "-c", built("lavish") + "; " + built("lavish") + "; :"}, {"--elrange", "1G"});
  const std::string lines = told(twice);
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 2) << lines;
}

TEST_F(RangeTest, WhoWantsAPlaceBeyondTheRangeIsToldWhy) {
  const RunResult above = run_inside({built("lavish"), "1", "0x1002001000"}, {"--elrange", "64G"});
  EXPECT_EQ(above.out, "refused\n");
  EXPECT_EQ(told(above),
            "exclave: exec: lavish asked for 1 MiB at 0x1002001000, which lies beyond its range of "
            "64 GiB: try --elrange 128G\n");
  const RunResult beyond = run_inside({built("lavish"), "1", "0x200000000000"});
  EXPECT_EQ(beyond.out, "refused\n");
  EXPECT_EQ(told(beyond),
            "exclave: exec: lavish asked for 1 MiB at 0x200000000000, which lies beyond its range "
            "of 16 TiB, and none is larger: see docs/exec.md, \"Programs that want more\"\n");
}

TEST_F(RangeTest, NothingIsSaidOfWhatLinuxRefusesToo) {
  for (const Words& wish : {Words{"67108864"}, Words{"1", "0x7fffffffe000"}}) {
    Words program{built("lavish")};
    program.insert(program.end(), wish.begin(), wish.end());
    EXPECT_EQ(expect_same(program, {"--elrange", "256M"}).out, "refused\n");
  }
  const RunResult limited = run(
      {"/bin/sh", "-c",
       "ulimit -v 1000000; exec " + tool() + " exec --elrange 1G -- " + built("lavish") + " 1024"});
  EXPECT_EQ(limited.out, "refused\n");
  EXPECT_EQ(told(limited), "");
}

// Where the machine has less, the range is as large as it can be.
TEST_F(RangeTest, TheDefaultIsWhatTheMachineHas) {
  const RunResult narrow = run({built("narrow"), tool(), "exec", "--", built("static_where")});
  ASSERT_EQ(narrow.code, 0) << narrow.err;
  std::istringstream words(narrow.out);
  std::uintmax_t highest = 0;
  for (std::string word; words >> word;) {
    highest = std::max<std::uintmax_t>(highest, std::stoull(word, nullptr, 16));
  }
  EXPECT_LT(highest, std::uintmax_t{1} << 40) << narrow.out;
  EXPECT_GT(highest, std::uintmax_t{8} << 30) << narrow.out;
  // What was asked for in so many words is not made less.
  const RunResult refused =
      run({built("narrow"), tool(), "exec", "--elrange", "16T", "--", built("static_where")});
  EXPECT_EQ(refused.code, 1);
  EXPECT_EQ(refused.err, "exclave: exec: no address space for the enclave's range\n");
}

// Data is what may be written: the books count as they grow, the stacks for calls do not.
TEST_F(RangeTest, LimitsOfData) {
  for (const char* kib : {"300000", "40000"}) {
    const std::string limit = std::string("ulimit -d ") + kib + "; exec ";
    EXPECT_EQ(
        run({"/bin/sh", "-c", limit + tool() + " exec -- /usr/bin/python3 -c 'print(1)'"}).out,
        "1\n")
        << kib;
  }
}

TEST_F(RangeTest, TheBreakKeepsToTheLimitOfData) {
  const RunResult inside = expect_same({built("breaks")});
  EXPECT_NE(inside.out.find("to 100663296: refused, at 134217728\n"), std::string::npos);
  EXPECT_NE(inside.out.find("to the byte: 1\n"), std::string::npos) << inside.out;
  EXPECT_NE(inside.out.find("limit of 0: 0\nto 20480: refused, at 16384\n"), std::string::npos);
}

TEST_F(RangeTest, RealProgramsThatReserveLavishly) {
  if (std::filesystem::exists("/usr/bin/shellcheck")) {
    const std::string script = write("script.sh", "#!/bin/sh\necho $1\n");
    EXPECT_NE(expect_same({"/usr/bin/shellcheck", script}).out.find("SC2086"), std::string::npos);
  }
  if (std::filesystem::exists("/usr/bin/valgrind")) {
    EXPECT_EQ(run_inside({"/usr/bin/valgrind", "-q", "--tool=none", "/bin/echo", "checked"}).out,
              "checked\n");
  }
  if (std::filesystem::exists("/usr/bin/node")) {
    const RunResult inside = expect_same(
        {"/usr/bin/node", "-e",
         "const m = []; for (let i = 0; i < 20; ++i) m.push(new WebAssembly.Memory({initial: 1}));"
         "console.log(m.length)"});
    EXPECT_EQ(inside.out, "20\n");
  }
}

}  // namespace
}  // namespace exclave::loader
